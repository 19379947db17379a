"""A server that costs next to nothing, to see what the clients of a load can take: their ceiling.

    python -m server.bench.null_server

prints its port, answers every request with a stream of as many chunks as it wants tokens, and ends with its input.
"""

import asyncio
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import PIPE, Popen
from typing import cast

import uvloop

from server.child import child_command

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
# As long as an ordinary chunk.
_CHUNK = (
    b'data: {"id":"cmpl-00000000000000000000000000000000","object":"text_completion","created":1700000000,'
    b'"model":"null","system_fingerprint":"fp_0000000000",'
    b'"choices":[{"text":" word","index":0,"logprobs":null,"finish_reason":null}],"usage":null}\n\n'
)
_USAGE = b'data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":%d}}\n\n'
_DONE = b"data: [DONE]\n\n"
_MAX_TOKENS = re.compile(rb'"max_tokens":\s*(\d+)')
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)


@contextmanager
def null_server() -> Iterator[str]:
    """Its URL, while the block lasts."""
    command = child_command("server.bench.null_server")
    # In a group of its own: Ctrl-C is for this process, with which its input ends.
    with Popen(command, stdin=PIPE, stdout=PIPE, text=True, process_group=0) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        assert process.stdin is not None
        process.stdin.close()


class _Answerer(asyncio.Protocol):
    def __init__(self) -> None:
        self._data = b""
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, found, body = self._data.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not found or (length and len(body) < int(length[1])):
            return
        self._data = b""
        wanted = _MAX_TOKENS.search(body)
        self._task = asyncio.create_task(self._answer(int(wanted[1]) if wanted else 1))

    def connection_lost(self, error: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _answer(self, num_tokens: int) -> None:
        chunk = _framed(_CHUNK)
        self._transport.write(_HEAD)
        for _ in range(num_tokens):
            self._transport.write(chunk)
            # The other streams' chunks come between, as those of one step of a real server do.
            await asyncio.sleep(0)
        self._transport.write(_framed(_USAGE % num_tokens) + _framed(_DONE) + b"0\r\n\r\n")


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


async def _main() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Answerer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    uvloop.run(_main())
