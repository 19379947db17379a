"""`POST /v1/completions`."""

import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Annotated

from fastapi import APIRouter, Depends
from msgspec import UNSET, structs
from starlette.requests import Request
from starlette.responses import Response

from server.api.answers import Text, respond
from server.api.choice_text import Piece, PromptTokens, Token
from server.api.context import ApiContext
from server.api.exchange import exchange_of
from server.api.generation import Prompt
from server.api.openapi import gives, reads
from server.api.prompts import encode_continuation, encode_texts
from server.errors import InvalidRequest
from server.protocol.common import Limits, Usage, UsageField, Warnings
from server.protocol.completions import Completion, CompletionChoice, CompletionLogprobs, CompletionRequest
from server.served import ServedModel
from server.text.events import Content
from server.text.gap_tokens import gap_tokens

_EXAMPLE = {"prompt": "Once upon a time", "max_tokens": 60, "stream": True}


def completions_router(api: ApiContext) -> APIRouter:
    """The endpoint, with what it needs."""
    router = APIRouter()

    @router.post(
        "/v1/completions", openapi_extra=reads(CompletionRequest, _EXAMPLE) | gives(Completion, chunk=Completion)
    )
    async def create_completion(
        request: Request, body: Annotated[CompletionRequest, Depends(api.body(CompletionRequest))]
    ) -> Response:
        """Continue a text, or several."""
        model = api.served.find(body.model)
        limits = api.limits(model)
        body.check(limits)
        exchange_of(request).warnings += await api.grammars.check(body.form(), model)
        run = api.run(request, body, model, await _prompts(body, model, limits))
        return await respond(api, request, run, _CompletionShape(body, model, exchange_of(request).warnings))

    return router


async def _prompts(body: CompletionRequest, model: ServedModel, limits: Limits) -> list[Prompt]:
    if body.suffix:
        return await _gaps(body, body.suffix, model, limits)
    given = body.prompt or [[_first_token(model)]]
    texts = [one for one in given if isinstance(one, str)]
    encoded = iter(await encode_texts(model, texts, body.add_special_tokens))
    prompts = []
    for one in given:
        whole = next(encoded) if isinstance(one, str) else one
        if not whole:
            raise InvalidRequest("the prompt has no tokens", param="prompt")
        token_ids = body.truncated(whole, limits)
        echoed = None
        if body.echo:
            echoed = one if isinstance(one, str) and token_ids == whole else model.tokenizer.decode(token_ids)
        prompts.append(Prompt(token_ids, body.sampling_params(len(token_ids), limits), echoed))
    return prompts


async def _gaps(body: CompletionRequest, suffix: str, model: ServedModel, limits: Limits) -> list[Prompt]:
    """Prompts that ask for what stands between a text and the suffix."""
    gap = gap_tokens(model.tokenizer)
    if gap is None or gap.middle >= limits.vocab_size:
        raise InvalidRequest("this model can't fill a gap: its tokenizer has no tokens for it", param="suffix")
    texts = [prompt for prompt in body.prompt or [""] if isinstance(prompt, str)]
    before = await encode_texts(model, texts, body.add_special_tokens)
    [start] = await encode_texts(model, [""], body.add_special_tokens)
    after = await encode_continuation(model, suffix)
    prompts = []
    for ids in before:
        whole = [*start, gap.prefix, *ids[len(start) :], gap.suffix, *after, gap.middle]
        token_ids = body.truncated(whole, limits)
        params = body.sampling_params(len(token_ids), limits)
        if gap.end is not None and not body.ignore_eos:
            params = structs.replace(params, stop_token_ids=(*params.stop_token_ids, gap.end))
        prompts.append(Prompt(token_ids, params))
    return prompts


def _first_token(model: ServedModel) -> int:
    """What a text starts from when nothing is given."""
    info = model.info
    start = info.bos_token_id if info.bos_token_id is not None else next(iter(info.eos_token_ids), None)
    if start is None:
        raise InvalidRequest("the model has no beginning-of-sequence token: give a prompt", param="prompt")
    return start


class _CompletionShape:
    """The answer of this endpoint."""

    def __init__(self, body: CompletionRequest, model: ServedModel, warnings: list[str]) -> None:
        self._body = body
        self._id = f"cmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = body.model or model.name
        self._fingerprint = model.fingerprint
        self._warnings: Warnings = warnings if body.include_warnings and warnings else UNSET
        include_usage = body.stream_options is not None and body.stream_options.include_usage
        self._no_usage: UsageField = None if include_usage else UNSET

    def chunks(self, piece: Piece) -> Iterator[Completion]:
        """A chunk for the text, one for the end."""
        if piece.text or piece.tokens or piece.token_ids or piece.prompt is not None:
            yield self._envelope([self._choice(piece, piece.index, finish_reason=None)], self._no_usage)
        if piece.finish_reason is not None:
            end = CompletionChoice(text="", index=piece.index, finish_reason=piece.finish_reason)
            yield self._envelope([end], self._no_usage)

    def plain_text(self, piece: Piece) -> Content | None:
        """The piece's text, if it has nothing else."""
        has_more = piece.tokens or piece.token_ids or piece.prompt is not None or piece.finish_reason is not None
        return None if has_more or not piece.text or self._warnings else Content(piece.text)

    def usage_chunk(self, usage: Usage) -> Completion:
        """No choices, but the counts."""
        return self._envelope([], usage)

    def answer(self, texts: Sequence[Text], usage: Usage) -> Completion:
        """The best `n` choices of each prompt, in order of their making unless best_of ranks them."""
        n, num_choices = self._body.n, self._body.num_choices
        choices = []
        for first in range(0, len(texts), num_choices):
            of_prompt = list(texts[first : first + num_choices])
            if num_choices > n:
                of_prompt.sort(key=_mean_logprob, reverse=True)
            choices += of_prompt[:n]
        return self._envelope(
            [self._choice(text, index, text.finish_reason) for index, text in enumerate(choices)], usage
        )

    def _choice(self, text: Text | Piece, index: int, finish_reason: str | None) -> CompletionChoice:
        prompt = text.prompt or PromptTokens(None, None)
        return CompletionChoice(
            text=text.text,
            index=index,
            logprobs=self._logprobs(text.tokens),
            finish_reason=finish_reason,
            prompt_logprobs=UNSET if prompt.logprobs is None else prompt.logprobs,
            prompt_token_ids=UNSET if prompt.token_ids is None else prompt.token_ids,
            token_ids=text.token_ids if self._body.return_token_ids else UNSET,
        )

    def _logprobs(self, tokens: Sequence[Token]) -> CompletionLogprobs | None:
        if self._body.logprobs is None:
            return None
        return CompletionLogprobs(
            tokens=[token.text for token in tokens],
            token_logprobs=[token.logprob for token in tokens],
            top_logprobs=[{other.text: other.logprob for other in token.top} or None for token in tokens],
            text_offset=[token.offset for token in tokens],
        )

    def _envelope(self, choices: list[CompletionChoice], usage: UsageField) -> Completion:
        warnings, self._warnings = self._warnings, UNSET
        return Completion(
            id=self._id,
            object="text_completion",
            created=self._created,
            model=self._model,
            system_fingerprint=self._fingerprint,
            choices=choices,
            usage=usage,
            warnings=warnings,
        )


def _mean_logprob(text: Text) -> float:
    logprobs = [token.logprob for token in text.tokens if token.logprob is not None]
    return sum(logprobs) / len(logprobs) if logprobs else 0.0
