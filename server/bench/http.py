"""HTTP/1.1 as a load generator needs it: a request, and the pieces of its answer's body as they come.

httpx takes tens of microseconds for each chunk of a stream; what is measured then is the client. This takes about two.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

MAX_HEAD_BYTES = 64 << 10


class HttpError(Exception):
    """The answer could not be had, or was cut short; the text says how."""


class ConnectionClosed(HttpError):
    """The server closed the connection before the answer began: one that was kept open may just have timed out."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go."""

    host: str
    port: int
    is_tls: bool
    prefix: str
    """Path before `/v1`."""
    api_key: str

    @classmethod
    def parse(cls, url: str, api_key: str = "") -> "Target":
        """The server at a base URL, with or without its `/v1`. Raises ValueError."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no http:// or https:// URL")
        is_tls = parts.scheme == "https"
        prefix = parts.path.rstrip("/").removesuffix("/v1")
        return cls(parts.hostname, parts.port or (443 if is_tls else 80), is_tls, prefix, api_key)

    def request(self, method: str, path: str, body: bytes) -> bytes:
        """The bytes of a request for a path such as /v1/models."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        lines = [f"{method} {self.prefix}{path} HTTP/1.1", f"host: {host}:{self.port}", "accept: */*"]
        if self.api_key:
            lines.append(f"authorization: Bearer {self.api_key}")
        if body:
            lines += ["content-type: application/json", f"content-length: {len(body)}"]
        return "\r\n".join([*lines, "", ""]).encode() + body


class Connections:
    """Connections to one server. Each carries one request at a time and is used again."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._tls = ssl.create_default_context() if target.is_tls else None
        self._idle: list[_Connection] = []

    async def ask(self, method: str, path: str, body: bytes, take: Callable[[bytes], None]) -> int:
        """Send a request; `take` gets each piece of the answer's body. Returns the status once all is there.

        Raises HttpError or OSError.
        """
        data = self._target.request(method, path, body)
        while self._idle:
            connection = self._idle.pop()
            try:
                return await self._ask_on(connection, data, take)
            except ConnectionClosed:
                continue
        return await self._ask_on(await self._connect(), data, take)

    def close(self) -> None:
        """Close those that are not in use."""
        while self._idle:
            self._idle.pop().close()

    async def _ask_on(self, connection: "_Connection", data: bytes, take: Callable[[bytes], None]) -> int:
        try:
            response = await connection.ask(data, take)
        except BaseException:
            connection.close()
            raise
        if response.keeps_open:
            self._idle.append(connection)
        else:
            connection.close()
        return response.status

    async def _connect(self) -> "_Connection":
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(_Connection, self._target.host, self._target.port, ssl=self._tls)
        return connection


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._response: _Response | None = None
        self._complete: asyncio.Future[None] | None = None

    async def ask(self, data: bytes, take: Callable[[bytes], None]) -> "_Response":
        if self._transport is None or self._transport.is_closing():
            raise ConnectionClosed("the connection is closed")
        self._response = response = _Response(take)
        self._complete = asyncio.get_running_loop().create_future()
        self._transport.write(data)
        await self._complete
        self._response = None
        return response

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self._response is None or self._complete is None or self._complete.done():
            self.close()  # nobody asked
            return
        try:
            self._response.feed(data)
        except Exception as error:
            self._complete.set_exception(error)
            return
        if self._response.is_complete:
            self._complete.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        if self._response is None or self._complete is None or self._complete.done():
            return
        if self._response.ends_at_close:
            self._complete.set_result(None)
        elif self._response.status == 0:
            self._complete.set_exception(ConnectionClosed(f"the server closed the connection unanswered{_why(error)}"))
        else:
            self._complete.set_exception(HttpError(f"the connection broke in the middle of the answer{_why(error)}"))


class _Response:
    """Reads one response as its bytes come (RFC 9112)."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self.status = 0
        """0 until the head was read."""
        self.is_complete = False
        self.keeps_open = True
        self.ends_at_close = False
        self._take = take
        self._data = b""
        self._at = 0
        self._num_missing = 0
        self._read_next = self._head

    def feed(self, data: bytes) -> None:
        """Take what came. Raises HttpError for what is no HTTP."""
        self._data = self._data[self._at :] + data
        self._at = 0
        while not self.is_complete and self._read_next():
            pass

    def _head(self) -> bool:
        end = self._data.find(b"\r\n\r\n")
        if end < 0:
            if len(self._data) > MAX_HEAD_BYTES:
                raise HttpError("the answer is no HTTP")
            return False
        start_line, *lines = self._data[:end].decode("latin-1").split("\r\n")
        version, _, rest = start_line.partition(" ")
        if not version.startswith("HTTP/1.") or not rest[:3].isdecimal():
            raise HttpError(f"the answer is no HTTP: {start_line[:80]!r}")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        self._at = end + 4
        if rest.startswith("100"):
            return True
        self.status = int(rest[:3])
        self.keeps_open = headers.get("connection", "").lower() != "close" and version == "HTTP/1.1"
        if "chunked" in headers.get("transfer-encoding", "").lower():
            self._read_next = self._chunk
        elif "content-length" in headers:
            self._num_missing = int(headers["content-length"])
            self._read_next = self._sized
        else:
            self.ends_at_close, self.keeps_open = True, False
            self._read_next = self._until_close
        return True

    def _chunk(self) -> bool:
        data, at = self._data, self._at
        size_end = data.find(b"\r\n", at)
        if size_end < 0:
            return False
        try:
            size = int(data[at:size_end].partition(b";")[0], 16)
        except ValueError:
            raise HttpError(f"{data[at:size_end][:40]!r} is no size of a chunk") from None
        if size == 0:
            self._at = size_end
            self._read_next = self._trailers
            return True
        end = size_end + 2 + size
        if len(data) < end + 2:
            return False
        self._at = end + 2
        self._take(data[size_end + 2 : end])
        return True

    def _trailers(self) -> bool:
        # Begins at the end of the last chunk's line, so that there may be none.
        self.is_complete = self._data.find(b"\r\n\r\n", self._at) >= 0
        return False

    def _sized(self) -> bool:
        piece = self._data[self._at : self._at + self._num_missing]
        self._at += len(piece)
        self._num_missing -= len(piece)
        self.is_complete = self._num_missing == 0
        if piece:
            self._take(piece)
        return False

    def _until_close(self) -> bool:
        piece = self._data[self._at :]
        self._at = len(self._data)
        if piece:
            self._take(piece)
        return False


def _why(error: Exception | None) -> str:
    return f": {error}" if error else ""
