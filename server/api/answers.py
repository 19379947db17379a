"""Pieces of text -> the HTTP answer, streamed or folded into one."""

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from server.api.choice_text import Piece, Token
from server.api.context import ApiContext
from server.api.disconnect import until_disconnected
from server.api.exchange import Exchange, exchange_of
from server.api.generation import Run
from server.api.sse import EventStream, event
from server.protocol.common import Usage
from server.text.events import Event, merged


@dataclass(slots=True)
class Text:
    """All pieces of one choice put together."""

    index: int
    text: str
    events: list[Event]
    tokens: list[Token]
    finish_reason: str


class Shape(Protocol):
    """How an endpoint writes its answer. One is made for each request."""

    def chunks(self, piece: Piece) -> Iterable[msgspec.Struct]:
        """The chunks of a stream that tell of this piece."""

    def usage_chunk(self, usage: Usage) -> msgspec.Struct:
        """The last chunk of a stream whose client asked for usage."""

    def answer(self, texts: Sequence[Text], usage: Usage) -> msgspec.Struct:
        """The whole answer."""


async def respond(api: ApiContext, request: Request, run: Run, shape: Shape) -> Response:
    """The answer in the form that the client asked for. Raises ClientDisconnected if it no longer waits."""
    exchange = exchange_of(request)
    is_resumable = _wants_resumable(api, request, run)
    if run.request.stream:
        events = _events(run, shape, exchange)
        if not is_resumable:
            return EventStream(events)
        kept = api.streams.keep(api.keys.identify(request), exchange.request_id, events)
        return EventStream(kept.read(), first_id=1)
    texts = await until_disconnected(request.receive, _fold(run))
    _log_usage(run, exchange)
    return Response(msgspec.json.encode(shape.answer(texts, run.usage())), media_type="application/json")


def _wants_resumable(api: ApiContext, request: Request, run: Run) -> bool:
    """Whether the stream is to be kept for a client that comes back; a warning where that can't be."""
    if request.headers.get("x-resumable", "").lower() not in ("1", "true"):
        return False
    if not run.request.stream:
        reason = "the answer is not streamed"
    elif not api.streams.is_on:
        reason = "the server is set not to keep streams"
    else:
        return True
    exchange_of(request).warnings.append(f"x-resumable has no effect: {reason}")
    return False


async def _events(run: Run, shape: Shape, exchange: Exchange) -> AsyncGenerator[bytes, None]:
    try:
        async with aclosing(run.pieces()) as pieces:
            async for piece in pieces:
                for chunk in shape.chunks(piece):
                    yield event(chunk)
    finally:
        _log_usage(run, exchange)
    options = run.request.stream_options
    if options is not None and options.include_usage:
        yield event(shape.usage_chunk(run.usage()))


async def _fold(run: Run) -> list[Text]:
    texts: dict[int, tuple[list[str], Text]] = {}
    async with aclosing(run.pieces()) as pieces:
        async for piece in pieces:
            parts, whole = texts.setdefault(piece.index, ([], Text(piece.index, "", [], [], "")))
            parts.append(piece.text)
            whole.events += piece.events
            whole.tokens += piece.tokens
            if piece.finish_reason is not None:
                whole.text, whole.finish_reason = "".join(parts), piece.finish_reason
                whole.events = merged(whole.events)
    return [texts[index][1] for index in sorted(texts)]


def _log_usage(run: Run, exchange: Exchange) -> None:
    usage = run.usage()
    exchange.log_fields["completion_tokens"] = usage.completion_tokens
    exchange.log_fields["cached_tokens"] = usage.prompt_tokens_details.cached_tokens
    receipt = run.receipt
    for part, seconds in (("queue", receipt.queue_s), ("prefill", receipt.prefill_s), ("decode", receipt.decode_s)):
        if seconds is not None:
            exchange.log_fields[f"{part}_s"] = round(seconds, 4)
