"""Pieces of text -> the HTTP answer, streamed or folded into one."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec
from msgspec import structs
from starlette.requests import Request
from starlette.responses import Response

from server.api.choice_text import Piece, PromptTokens, Token
from server.api.context import ApiContext
from server.api.disconnect import until_disconnected
from server.api.exchange import Exchange, exchange_of
from server.api.generation import Run
from server.api.resumable import is_asked_to_keep
from server.api.sse import EventStream, EventTemplate, event, padded_event
from server.protocol.chat_answer import ChatCompletionChunk
from server.protocol.common import StreamOptions, Usage
from server.protocol.completions import Completion
from server.text.events import Content, Event, Reasoning, merged

Chunk = Completion | ChatCompletionChunk


@dataclass(slots=True)
class Text:
    """All pieces of one choice put together."""

    index: int
    text: str
    events: list[Event]
    tokens: list[Token]
    token_ids: list[int]
    prompt: PromptTokens | None
    finish_reason: str


A_co = TypeVar("A_co", bound=msgspec.Struct, covariant=True)
A = TypeVar("A", bound=msgspec.Struct)
Keep = Callable[[A], Awaitable[None]]


class Shape(Protocol[A_co]):
    """How an endpoint writes its answer. One is made for each request."""

    def chunks(self, piece: Piece) -> Iterable[Chunk]:
        """The chunks of a stream that tell of this piece."""

    def plain_text(self, piece: Piece) -> Content | Reasoning | None:
        """What the piece brings, if that's a text and nothing else: then `chunks` gives one, alike for all such pieces
        of the choice but for the text."""

    def usage_chunk(self, usage: Usage) -> Chunk:
        """The last chunk of a stream whose client asked for usage."""

    def answer(self, texts: Sequence[Text], usage: Usage) -> A_co:
        """The whole answer."""


async def respond(
    api: ApiContext, request: Request, run: Run, shape: Shape[A], keep: Keep[A] | None = None
) -> Response:
    """The answer in the form that the client asked for. Raises ClientDisconnected if it no longer waits.

    `keep` is given the whole answer, streamed or not, before the client is told of its end.
    """
    exchange = exchange_of(request)
    is_resumable = _wants_resumable(api, request, run)
    if run.request.stream:
        events = _events(run, shape, exchange, keep)
        if not is_resumable:
            return EventStream(events, first_id=1 if api.streams.is_on else None)
        if (home := api.home_of(exchange.request_id)) is not None:
            return home.pass_on(request)
        kept = api.streams.keep(api.keys.identify(request), exchange.request_id, events)
        return EventStream(kept.read(), first_id=1)
    texts = await until_disconnected(request.receive, _fold(run))
    _log_usage(run, exchange)
    answer = shape.answer(texts, run.usage())
    if keep is not None:
        await keep(answer)
    return Response(msgspec.json.encode(answer), media_type="application/json")


def _wants_resumable(api: ApiContext, request: Request, run: Run) -> bool:
    """Whether the stream is to be kept for a client that comes back; a warning where that can't be."""
    if not is_asked_to_keep(request):
        return False
    if not run.request.stream:
        reason = "the answer is not streamed"
    elif not api.streams.is_on:
        reason = "the server is set not to keep streams"
    else:
        return True
    exchange = exchange_of(request)
    exchange.body = b""  # no other process needs it
    exchange.warnings.append(f"x-resumable has no effect: {reason}")
    return False


async def _events(run: Run, shape: Shape[A], exchange: Exchange, keep: Keep[A] | None) -> AsyncGenerator[bytes, None]:
    fold = None if keep is None else _Fold()
    options = run.request.stream_options or StreamOptions()
    to_event = padded_event if options.include_obfuscation else event
    writer = _TextWriter(shape)
    has_templates = not (options.include_obfuscation or options.continuous_usage_stats)
    try:
        async with aclosing(run.pieces()) as pieces:
            async for piece in pieces:
                if fold is not None:
                    fold.take(piece)
                text = shape.plain_text(piece) if has_templates else None
                if text is not None:
                    yield writer.event(piece.index, text)
                    continue
                chunks = shape.chunks(piece)
                if options.continuous_usage_stats:
                    chunks = [structs.replace(chunk, usage=run.usage()) for chunk in chunks]
                for chunk in chunks:
                    yield to_event(chunk)
    finally:
        _log_usage(run, exchange)
    if fold is not None and keep is not None:
        await keep(shape.answer(fold.texts(), run.usage()))
    if options.include_usage:
        yield to_event(shape.usage_chunk(run.usage()))


class _TextWriter:
    """Writes the events that tell of text alone, nearly all of most streams, from a template for each kind."""

    def __init__(self, shape: Shape[A]) -> None:
        self._shape = shape
        self._templates: dict[tuple[int, type[Content | Reasoning]], EventTemplate] = {}

    def event(self, index: int, text: Content | Reasoning) -> bytes:
        """As `sse.event` writes the text's chunk."""
        kind = type(text)
        template = self._templates.get((index, kind))
        if template is None:
            template = self._templates[index, kind] = EventTemplate(lambda words: self._chunk(index, kind(words)))
        return template.fill(text.text)

    def _chunk(self, index: int, text: Content | Reasoning) -> Chunk:
        [chunk] = self._shape.chunks(Piece(index, text.text, [text]))
        return chunk


async def _fold(run: Run) -> list[Text]:
    fold = _Fold()
    async with aclosing(run.pieces()) as pieces:
        async for piece in pieces:
            fold.take(piece)
    return fold.texts()


class _Fold:
    """Puts the pieces of all choices together."""

    def __init__(self) -> None:
        self._texts: dict[int, tuple[list[str], Text]] = {}

    def take(self, piece: Piece) -> None:
        parts, whole = self._texts.setdefault(piece.index, ([], Text(piece.index, "", [], [], [], piece.prompt, "")))
        parts.append(piece.text)
        whole.events += piece.events
        whole.tokens += piece.tokens
        whole.token_ids += piece.token_ids
        if piece.finish_reason is not None:
            whole.text, whole.finish_reason = "".join(parts), piece.finish_reason
            whole.events = merged(whole.events)

    def texts(self) -> list[Text]:
        return [self._texts[index][1] for index in sorted(self._texts)]


def _log_usage(run: Run, exchange: Exchange) -> None:
    usage = run.usage()
    exchange.log_fields["completion_tokens"] = usage.completion_tokens
    exchange.log_fields["cached_tokens"] = usage.prompt_tokens_details.cached_tokens
    receipt = run.receipt
    for part, seconds in (("queue", receipt.queue_s), ("prefill", receipt.prefill_s), ("decode", receipt.decode_s)):
        if seconds is not None:
            exchange.log_fields[f"{part}_s"] = round(seconds, 4)
