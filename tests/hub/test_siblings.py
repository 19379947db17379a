"""A request passed on to the process that keeps its stream, over a real socket, and that process' answer."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.types import Message

from server.api.exchange import Exchange
from server.hub.siblings import PrivateSocket

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def listening(path: Path, answer: Answer) -> AsyncIterator[None]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await answer(reader, writer)
        writer.close()

    async with await asyncio.start_unix_server(serve, path):
        yield


async def pass_on(path: Path, exchange: Exchange, headers: list[tuple[bytes, bytes]], send: Any) -> None:
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/v1/completions",
        "raw_path": b"/v1/completions",
        "query_string": b"name=Jos\xe9",
        "headers": headers,
        "state": {"exchange": exchange},
    }

    async def receive() -> Message:
        return await asyncio.Future()

    response = PrivateSocket(1, str(path)).pass_on(Request(scope))
    async with asyncio.timeout(10):
        await response(scope, receive, send)


def test_headers_are_passed_on_as_the_bytes_that_they_are(tmp_path: Path) -> None:
    heads: list[bytes] = []
    messages: list[Message] = []
    name = "José, clé".encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        assert await reader.readexactly(4) == b"body"
        writer.write(b"HTTP/1.1 200 OK\r\ndate: then\r\nX-User: %s\r\ncontent-length: 2\r\n\r\nok" % name)

    async def send(message: Message) -> None:
        messages.append(message)

    async def main() -> None:
        headers = [
            (b"host", b"here"),
            (b"x-user", name),
            (b"x-user", b"latin \xe9"),
            (b"x-request-id", b"not valid \xe9"),
            (b"transfer-encoding", b"chunked"),
        ]
        async with listening(tmp_path / "home", answer):
            await pass_on(tmp_path / "home", Exchange("name", body=b"body"), headers, send)

    asyncio.run(main())
    assert b"\r\nx-user: %s\r\nx-user: latin \xe9\r\n" % name in heads[0]
    assert heads[0].count(b"x-request-id") == 1
    assert b"\r\nx-request-id: name\r\n" in heads[0]
    assert b"chunked" not in heads[0]
    # The server that sends the answer on dates it.
    assert messages[0] == {"type": "http.response.start", "status": 200, "headers": [(b"x-user", name)]}
    assert b"".join(message["body"] for message in messages[1:]) == b"ok"


def test_a_body_that_was_passed_on_is_not_held_for_as_long_as_the_answer_lasts(tmp_path: Path) -> None:
    freed: list[bool] = []

    class Body(bytes):
        def __del__(self) -> None:
            freed.append(True)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"body")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\ndata")

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            assert freed

    async def main() -> None:
        async with listening(tmp_path / "home", answer):
            await pass_on(tmp_path / "home", Exchange("name", body=Body(b"body")), [], send)

    asyncio.run(main())
    assert freed
