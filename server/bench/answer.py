"""One request of a load: sent, its answer read as it streams, and what was seen of it."""

import asyncio
import time
from typing import Any, Literal

import msgspec

from server.bench.http import Connections, HttpError

REQUEST_TIMEOUT_S = 600.0
_SHOWN_OF_ERROR = 300


class Seen(msgspec.Struct):
    """What the client saw of one request. Times are the machine's monotonic clock, the same in every process."""

    max_tokens: int
    """As many were asked for."""
    due_at: float
    """When it was to be sent; what the client was late by counts as the server's."""
    text_times: list[float] = []
    """When each chunk with text came."""
    ended_at: float = 0.0
    num_prompt: int = 0
    """Tokens, as the server counts them; 0 if it doesn't say."""
    num_output: int = 0
    """Tokens, as the server counts them; chunks with text if it doesn't say."""
    num_cached: int = 0
    is_counted: bool = False
    """Whether the server said how many tokens there were."""
    error: str = ""
    """Empty for a complete answer."""


class Request(msgspec.Struct, frozen=True):
    """What is sent."""

    path: Literal["/v1/completions", "/v1/chat/completions"]
    body: dict[str, Any]

    @property
    def max_tokens(self) -> int:
        """As many are asked for."""
        return int(self.body["max_tokens"])


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct):
    text: str | None = None
    delta: _Delta | None = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: _Usage | None = None
    error: msgspec.Raw = msgspec.Raw()


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Chunk).decode


async def ask(connections: Connections, request: Request, due_at: float) -> tuple[Seen, str]:
    """Send the request now and read its answer to the end. Returns what was seen, errors too, and the text.

    Thoughts count as tokens and are no text.
    """
    seen = Seen(request.max_tokens, due_at)
    answer = _Answer(seen)
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT_S):
            status = await connections.ask("POST", request.path, _encode(request.body), answer.take)
        seen.error = answer.fault(status)
    except TimeoutError:
        seen.error = f"not complete after {REQUEST_TIMEOUT_S:.0f} s"
    except (HttpError, OSError) as error:
        seen.error = f"{type(error).__name__}: {error}"
    seen.ended_at = time.monotonic()
    if not seen.is_counted:
        seen.num_output = len(seen.text_times)
    return seen, "".join(answer.texts)


class _Answer:
    """Reads the events of a stream."""

    def __init__(self, seen: Seen) -> None:
        self.texts: list[str] = []
        self._seen = seen
        self._rest = b""
        self._other = b""
        self._error = ""
        self._is_done = False

    def take(self, data: bytes) -> None:
        """Read what came."""
        now = time.monotonic()
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            if line.startswith(b"data:"):
                self._read_event(line[5:].strip(), now)
            elif len(self._other) < _SHOWN_OF_ERROR:
                self._other += line

    def fault(self, status: int) -> str:
        """What is wrong with the answer now that it is over; empty if nothing is."""
        if status != 200:
            shown = (self._other + self._rest)[:_SHOWN_OF_ERROR].decode(errors="replace")
            return f"status {status}: {shown}"
        if self._error or self._is_done:
            return self._error
        return "the stream ended without [DONE]"

    def _read_event(self, data: bytes, now: float) -> None:
        if data == b"[DONE]":
            self._is_done = True
            return
        try:
            chunk = _decode(data)
        except msgspec.MsgspecError as error:
            self._error = f"an event that is no chunk ({error}): {data[:100]!r}"
            return
        if bytes(chunk.error):
            self._error = bytes(chunk.error)[:_SHOWN_OF_ERROR].decode(errors="replace")
        if chunk.usage is not None:
            self._count(chunk.usage)
        for choice in chunk.choices or ():
            delta = choice.delta or _Delta()
            text = choice.text or delta.content
            if text:
                self.texts.append(text)
            if text or delta.reasoning_content or delta.reasoning:
                self._seen.text_times.append(now)

    def _count(self, usage: _Usage) -> None:
        seen = self._seen
        seen.is_counted = True
        seen.num_prompt, seen.num_output = usage.prompt_tokens, usage.completion_tokens
        seen.num_cached = (usage.prompt_tokens_details or _Details()).cached_tokens or 0
