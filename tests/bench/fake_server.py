"""A server whose answers take as long as they are told to, and that says when it sent what."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

Behaviour = Callable[["Exchange"], Awaitable[None]]

FIRST_S, GAP_S, NUM_CHUNKS = 0.03, 0.01, 5


@dataclass
class Exchange:
    """One request, and the way to answer it."""

    path: str
    headers: str
    body: dict[str, Any]
    writer: asyncio.StreamWriter
    sent_at: list[float]
    """When each chunk with text left."""

    def start(self, status: str = "200 OK") -> None:
        head = f"HTTP/1.1 {status}\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        self.writer.write(head.encode())

    def send(self, data: bytes) -> None:
        self.writer.write(b"%x\r\n%b\r\n" % (len(data), data))

    def event(self, chunk: object) -> None:
        self.send(b"data: " + json.dumps(chunk).encode() + b"\n\n")

    def text(self, text: str) -> None:
        self.sent_at.append(time.monotonic())
        is_chat = self.path.endswith("/chat/completions")
        self.event({"choices": [{"delta": {"content": text}} if is_chat else {"text": text}]})

    def end(self, usage: dict[str, Any] | None = None) -> None:
        if usage is not None:
            self.event({"choices": [], "usage": usage})
        self.send(b"data: [DONE]\n\n")
        self.writer.write(b"0\r\n\r\n")


async def in_time(exchange: Exchange) -> None:
    """The first chunk after FIRST_S, the others GAP_S apart, and the counts of the server, which sends two a chunk."""
    exchange.start()
    await asyncio.sleep(FIRST_S)
    for number in range(NUM_CHUNKS):
        if number:
            await asyncio.sleep(GAP_S)
        exchange.text(f"w{number} ")
    details = {"cached_tokens": 4}
    exchange.end({"prompt_tokens": 7, "completion_tokens": 2 * NUM_CHUNKS, "prompt_tokens_details": details})


@dataclass
class FakeServer:
    """Answers by its behaviour, any number of requests at once."""

    behaviour: Behaviour = in_time
    exchanges: list[Exchange] = field(default_factory=list)
    num_connections: int = 0
    url: str = ""

    async def __aenter__(self) -> "FakeServer":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                start_line, headers = head.decode().split("\r\n", 1)
                length = next(
                    (int(line[15:]) for line in headers.split("\r\n") if line.startswith("content-length")), 0
                )
                body = json.loads(await reader.readexactly(length) or b"null")
                exchange = Exchange(start_line.split()[1], headers, body, writer, [])
                self.exchanges.append(exchange)
                await self.behaviour(exchange)
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()
