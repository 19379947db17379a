"""Chunks as a stream of server-sent events."""

import asyncio
import logging
import secrets
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

import msgspec
from msgspec import structs
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from server.api.disconnect import until_disconnected
from server.api.error_responses import error_body, unexpected
from server.api.exchange import exchange_in
from server.errors import ClientDisconnected, RequestError
from server.protocol.common import Envelope

logger = logging.getLogger(__name__)

# Proxies cut a connection that is silent for a minute, some after 15 s.
KEEP_ALIVE_S = 10.0
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
_PADDED_TO = 64

_LINE_ENDS = tuple((character.encode(), b"\\u%04x" % ord(character)) for character in "\x85\u2028\u2029")
_encode = msgspec.json.Encoder().encode


def event(chunk: msgspec.Struct) -> bytes:
    """The chunk as one event of one line."""
    return b"data: " + _line(chunk) + b"\n\n"


class EventTemplate:
    """Events of chunks that are alike but for one text, which are encoded once for all of them."""

    def __init__(self, make_chunk: Callable[[str], msgspec.Struct]) -> None:
        """`make_chunk` makes the chunk of a text."""
        # As good as any text: no client's, and nothing that a chunk holds, has 128 random bits of ours in it.
        place = secrets.token_hex(16)
        self._parts = event(make_chunk(place)).split(_encode(place))

    def fill(self, text: str) -> bytes:
        """The event of the chunk of this text."""
        return _line(text).join(self._parts)


def _line(value: msgspec.Struct | str) -> bytes:
    line = _encode(value)
    if not line.isascii():
        # JSON lets these stand, and readers that split lines as Python's str does would break the event at them.
        for character, escape in _LINE_ENDS:
            line = line.replace(character, escape)
    return line


def padded_event(chunk: Envelope) -> bytes:
    """As `event`, padded so that the number of its bytes tells no more of the text than its multiple of 64.

    Random characters: others would vanish where a proxy compresses.
    """
    num_bytes = len(event(structs.replace(chunk, obfuscation="")))
    padding = secrets.token_urlsafe(_PADDED_TO)[: -num_bytes % _PADDED_TO]
    return event(structs.replace(chunk, obfuscation=padding))


def error_event(error: RequestError) -> bytes:
    """An error after the stream has begun. Clients look for the key `error` in the data or at the event's name."""
    return b"event: error\ndata: " + error_body(error) + b"\n\n"


class EventStream(Response):
    """Sends events as they come, then [DONE]. Each one that the generator yields is one event.

    Headers wait for the first event, so that a refusal keeps its status; at most `keep_alive_s`, after which a comment
    goes out, and again whenever nothing was sent for so long. A client that leaves ends the events at once.

    Events have an id, by which a client may come back for those after it, where the server keeps streams.
    """

    media_type = "text/event-stream"

    def __init__(
        self, events: AsyncGenerator[bytes, None], keep_alive_s: float = KEEP_ALIVE_S, first_id: int | None = None
    ) -> None:
        """`first_id`: the id of the first event, from which the others count on; None for no ids."""
        self.status_code = 200
        self.background = None
        self.init_headers({"cache-control": "no-cache", "x-accel-buffering": "no"})
        self._events = events
        self._keep_alive_s = keep_alive_s
        self._next_id = first_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the stream. Raises what the events raise, as long as no header was sent."""
        start: Message = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        exchange = exchange_in(scope)
        writer = _Writer(send, exchange.send_body or send, start, self._keep_alive_s)
        try:
            await until_disconnected(receive, self._write_events(writer, exchange.request_id))
        except ClientDisconnected:
            exchange.log_fields["outcome"] = "disconnected"
            if not writer.has_started:
                raise

    async def _write_events(self, writer: "_Writer", request_id: str) -> None:
        keep_alive = asyncio.create_task(writer.keep_alive())
        try:
            async with aclosing(self._events) as events:
                async for data in events:
                    await writer.write(self._with_id(data))
        except Exception as error:
            if not writer.has_started:
                raise
            if not isinstance(error, RequestError):
                logger.exception("event=stream_failed request_id=%s", request_id)
                error = unexpected(request_id)
            await writer.write(self._with_id(error_event(error)))
        finally:
            keep_alive.cancel()
        await writer.write(self._with_id(DONE))
        await writer.end()

    def _with_id(self, data: bytes) -> bytes:
        if self._next_id is None:
            return data
        self._next_id += 1
        return b"id: %d\n" % (self._next_id - 1) + data


class _Writer:
    """The connection: sends the start before the first bytes, and comments into long silences."""

    def __init__(self, send: Send, send_body: Send, start: Message, keep_alive_s: float) -> None:
        self.has_started = False
        self._send = send
        self._send_body = send_body
        self._start = start
        self._keep_alive_s = keep_alive_s
        self._clock = asyncio.get_running_loop().time
        self._sent_at = self._clock()
        self._lock = asyncio.Lock()

    async def write(self, data: bytes) -> None:
        if not self.has_started:
            await self._send_start()
        await self._send_body({"type": "http.response.body", "body": data, "more_body": True})
        self._sent_at = self._clock()

    async def _send_start(self) -> None:
        # It must be through before the other task's bytes are sent.
        async with self._lock:
            if not self.has_started:
                await self._send(self._start)
                self.has_started = True

    async def keep_alive(self) -> None:
        while True:
            await asyncio.sleep(self._sent_at + self._keep_alive_s - self._clock())
            if self._clock() - self._sent_at >= self._keep_alive_s:
                await self.write(KEEP_ALIVE)

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})
