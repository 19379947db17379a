"""HTTP/1.1 by uvicorn and h11, with less work for each piece of a streamed body, and stricter."""

from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# h11's own bound on a request's head, which is why it parses here: httptools has none.
MAX_HEAD_BYTES = 64 * 1024
_LENGTHS = {b"content-length", b"transfer-encoding"}
_CHUNKED = b"\r\ntransfer-encoding: chunked\r\n"


class HttpProtocol(H11Protocol):
    """uvicorn's protocol over such a connection."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.conn = ChunkingConnection(h11.SERVER, MAX_HEAD_BYTES)

    def shutdown(self) -> None:
        """End the connection with the answer that is being sent; at once while a request is still to come."""
        super().shutdown()
        if self.cycle is not None and self.cycle.more_body and not self.cycle.response_started:
            self.transport.close()


class ChunkingConnection(h11.Connection):
    """h11's connection, which frames the pieces of a chunked body itself.

    Between the head of a chunked body and its end no piece changes the connection's state, and to ask the state machine
    about each takes several times as long as to write it.
    """

    _is_in_chunked_body = False

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """The client's next event, as h11 gives it. Raises RemoteProtocolError.

        A body of two lengths is refused, and the connection closed by it: where a proxy in front believes the other
        length, one client's body is the next one's request (RFC 9112, section 6.1).
        """
        event = super().next_event()
        if isinstance(event, h11.Request) and {name for name, _ in event.headers} >= _LENGTHS:
            raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding")
        return event

    def send_with_data_passthrough(self, event: h11.Event) -> list[bytes] | None:
        """The bytes of the event, as h11 gives them; `send` joins them."""
        if self._is_in_chunked_body and isinstance(event, h11.Data):
            return [b"%x\r\n%b\r\n" % (len(event.data), event.data)] if event.data else []
        output = super().send_with_data_passthrough(event)
        is_head = isinstance(event, h11.Response) and output is not None
        self._is_in_chunked_body = is_head and _CHUNKED in b"".join(output or []).lower()
        return output
