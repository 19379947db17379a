"""The other API processes, as one of them knows them."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from zlib import crc32

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from server.api.disconnect import until_disconnected
from server.api.error_responses import unexpected
from server.api.exchange import Exchange, exchange_in, exchange_of
from server.api.sse import DONE, error_event
from server.errors import ClientDisconnected, NotReady
from server.hub.exposition import summed

logger = logging.getLogger(__name__)

# Much longer than a stream's keep-alive comments let it be silent, and long enough for a dead process' place to be
# taken: a connection waits for that.
_TIMEOUT_S = 30.0
# Headers of a message between two ends of one connection.
_OF_ONE_HOP = {b"connection", b"keep-alive", b"transfer-encoding", b"content-length"}


class PrivateSockets:
    """The other processes, by the Unix sockets where they listen for this one (`api.siblings.Siblings`).

    A stream that can be picked up again is kept by the process that its name says, its home: so whichever process a
    client comes back to knows where it is, and two streams of one name meet.
    """

    def __init__(self, place: int, sockets: Sequence[str], all_counts: Callable[[str], Awaitable[list[str]]]) -> None:
        """`sockets`: of all processes by their places, of which `place` is this one's. `all_counts` gives what all have
        counted, given what this one has, and raises TimeoutError."""
        self._place = place
        self._sockets = sockets
        self._all_counts = all_counts

    def home_of(self, request_id: str) -> "PrivateSocket | None":
        """The process that keeps the stream of this request, if that is another."""
        place = crc32(request_id.encode()) % len(self._sockets)
        return None if place == self._place else PrivateSocket(place, self._sockets[place])

    async def summed_counts(self, counts: str) -> str:
        """The sum of what all have counted, given what this one has. Raises NotReady."""
        try:
            return summed(await self._all_counts(counts))
        except TimeoutError:
            raise NotReady("the counts of the other API processes did not come in time") from None


class PrivateSocket:
    """One other process."""

    def __init__(self, place: int, path: str) -> None:
        self._place = place
        self._path = path

    def pass_on(self, request: Request) -> Response:
        """What it answers to this request, with the body that the exchange has kept."""
        exchange = exchange_of(request)
        exchange.log_fields["passed_to"] = self._place
        # As bytes: a header may be in any encoding, and there may be several of one name.
        headers = _without(request.headers.raw, _OF_ONE_HOP | {b"x-request-id"})
        headers.append((b"x-request-id", exchange.request_id.encode()))
        headers.append((b"content-length", str(len(exchange.body)).encode()))
        query, path = request.scope["query_string"].decode("latin-1"), request.scope["raw_path"].decode("latin-1")
        return _PassedOn(
            self._path,
            httpx.Request(
                request.method,
                f"http://sibling{path}" + (f"?{query}" if query else ""),
                headers=headers,
                content=_body_of(exchange),
            ),
        )


class _PassedOn(Response):
    """Another process' answer, as it comes. If the client leaves, the other process' does, too."""

    def __init__(self, socket_path: str, request: httpx.Request) -> None:
        self.background = None
        self._socket_path = socket_path
        self._request = request
        self._has_started = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Ask, and answer. Raises NotReady if nobody is there."""
        exchange = exchange_in(scope)
        try:
            await until_disconnected(receive, self._relay(send, exchange.request_id))
        except ClientDisconnected:
            exchange.log_fields["outcome"] = "disconnected"
            if not self._has_started:
                raise

    async def _relay(self, send: Send, request_id: str) -> None:
        transport = httpx.AsyncHTTPTransport(uds=self._socket_path)
        async with httpx.AsyncClient(transport=transport, timeout=_TIMEOUT_S) as client:
            try:
                answer = await client.send(self._request, stream=True)
                await send(_start(answer))
                self._has_started = True
                async for data in answer.aiter_raw():
                    await send(_body(data, more=True))
            except httpx.TransportError as error:
                logger.error("event=sibling_lost id=%s error=%r", request_id, error)
                if not self._has_started:
                    raise NotReady("the API process that keeps this stream is being replaced") from None
                await send(_body(error_event(unexpected(request_id)) + DONE, more=True))
            await send(_body(b"", more=False))


async def _body_of(exchange: Exchange) -> AsyncIterator[bytes]:
    """The body, which nobody holds once it was sent: the answer may be a long stream."""
    body, exchange.body = exchange.body, b""
    yield body


def _start(answer: httpx.Response) -> Message:
    # The server that sends the answer on dates it.
    headers = _without(answer.headers.raw, _OF_ONE_HOP | {b"date"})
    return {"type": "http.response.start", "status": answer.status_code, "headers": headers}


def _without(headers: Sequence[tuple[bytes, bytes]], names: set[bytes]) -> list[tuple[bytes, bytes]]:
    return [(name.lower(), value) for name, value in headers if name.lower() not in names]


def _body(data: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": data, "more_body": more}
