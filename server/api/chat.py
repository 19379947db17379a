"""`POST /v1/chat/completions`."""

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from server.api.answers import Text, respond
from server.api.choice_text import Piece, Token
from server.api.context import ApiContext
from server.api.exchange import exchange_of
from server.api.generation import Prompt
from server.api.openapi import gives, reads
from server.api.prompts import encode_conversation
from server.errors import InvalidRequest
from server.protocol.chat import (
    AssistantMessage,
    ChatChoice,
    ChatCompletion,
    ChatCompletionChunk,
    ChatCompletionRequest,
    ChatLogprobs,
    ChunkChoice,
    Delta,
    TokenLogprob,
    TopLogprob,
)
from server.protocol.common import Usage, UsageField, Warnings
from server.served import ServedModel

_EXAMPLE = {"messages": [{"role": "user", "content": "Hello! Who are you?"}]}


def chat_router(api: ApiContext) -> APIRouter:
    """The endpoint, with what it needs."""
    router = APIRouter()

    @router.post(
        "/v1/chat/completions",
        openapi_extra=reads(ChatCompletionRequest, _EXAMPLE) | gives(ChatCompletion, chunk=ChatCompletionChunk),
    )
    async def create_chat_completion(
        request: Request, body: Annotated[ChatCompletionRequest, Depends(api.body(ChatCompletionRequest))]
    ) -> Response:
        """Answer a conversation."""
        model = api.served.find(body.model)
        limits = api.limits(model)
        body.check(limits)
        exchange_of(request).warnings += await api.grammars.check(body, model)
        token_ids = await encode_conversation(model, body)
        if not token_ids:
            raise InvalidRequest("the rendered messages have no tokens", param="messages")
        prompt = Prompt(token_ids, body.sampling_params(len(token_ids), limits))
        run = api.run(request, body, model, [prompt])
        return await respond(request, run, _ChatShape(body, model, exchange_of(request).warnings))

    return router


class _ChatShape:
    """The answer of this endpoint."""

    def __init__(self, body: ChatCompletionRequest, model: ServedModel, warnings: list[str]) -> None:
        self._with_logprobs = body.logprobs
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model.name
        self._fingerprint = model.fingerprint
        self._warnings: Warnings = warnings if body.include_warnings and warnings else UNSET
        include_usage = body.stream_options is not None and body.stream_options.include_usage
        self._no_usage: UsageField = None if include_usage else UNSET
        self._begun: set[int] = set()
        self._num_top = body.top_logprobs or 0

    def chunks(self, piece: Piece) -> Iterator[ChatCompletionChunk]:
        """A choice's role first, then a chunk for each piece of text, and one for the end."""
        if piece.index not in self._begun:
            self._begun.add(piece.index)
            yield self._chunk([ChunkChoice(index=piece.index, delta=Delta(role="assistant", content=""))])
        if piece.text or piece.tokens:
            delta, logprobs = Delta(content=piece.text), self._logprobs(piece.tokens)
            yield self._chunk([ChunkChoice(index=piece.index, delta=delta, logprobs=logprobs)])
        if piece.finish_reason is not None:
            yield self._chunk([ChunkChoice(index=piece.index, delta=Delta(), finish_reason=piece.finish_reason)])

    def usage_chunk(self, usage: Usage) -> ChatCompletionChunk:
        """No choices, but the counts."""
        return self._chunk([], usage)

    def answer(self, texts: Sequence[Text], usage: Usage) -> ChatCompletion:
        """All choices."""
        choices = [
            ChatChoice(
                index=text.index,
                message=AssistantMessage(content=text.text),
                logprobs=self._logprobs(text.tokens),
                finish_reason=text.finish_reason,
            )
            for text in texts
        ]
        return ChatCompletion(
            id=self._id,
            object="chat.completion",
            created=self._created,
            model=self._model,
            system_fingerprint=self._fingerprint,
            choices=choices,
            usage=usage,
            warnings=self._warnings,
        )

    def _chunk(self, choices: list[ChunkChoice], usage: UsageField | None = None) -> ChatCompletionChunk:
        warnings, self._warnings = self._warnings, UNSET
        return ChatCompletionChunk(
            id=self._id,
            object="chat.completion.chunk",
            created=self._created,
            model=self._model,
            system_fingerprint=self._fingerprint,
            choices=choices,
            usage=self._no_usage if usage is None else usage,
            warnings=warnings,
        )

    def _logprobs(self, tokens: Sequence[Token]) -> ChatLogprobs | None:
        return ChatLogprobs([self._token(token) for token in tokens]) if self._with_logprobs else None

    def _token(self, token: Token) -> TokenLogprob:
        top = [TopLogprob(other.text, other.logprob, list(other.bytes)) for other in token.top]
        assert token.logprob is not None
        return TokenLogprob(token.text, token.logprob, list(token.bytes), top[: self._num_top])
