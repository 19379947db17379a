"""`POST /tokenize`, `POST /detokenize` and `GET /tokenizer_info`."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from server.api.context import ApiContext
from server.api.openapi import gives, reads
from server.api.prompts import encode_conversation, encode_texts, off_loop
from server.protocol.common import check_token_ids
from server.protocol.completions import CompletionRequest
from server.protocol.tokenize import (
    DetokenizeAnswer,
    DetokenizeRequest,
    TokenizeAnswer,
    TokenizeRequest,
    TokenizerInfo,
)


def tokenize_router(api: ApiContext) -> APIRouter:
    """The endpoints, with what they need."""
    router = APIRouter()

    @router.post(
        "/tokenize", openapi_extra=reads(TokenizeRequest, {"prompt": "Once upon a time"}) | gives(TokenizeAnswer)
    )
    async def tokenize(
        request: Request, body: Annotated[TokenizeRequest, Depends(api.body(TokenizeRequest))]
    ) -> Response:
        """The token ids of a prompt, or of messages as chat would render them, and what a request would cost now."""
        model = api.served.find(body.model)
        body.check()
        if body.prompt is None:
            token_ids = (await encode_conversation(model, body)).token_ids
        else:
            [token_ids] = await encode_texts(model, [body.prompt], body.add_special_tokens is not False)
        token_strs = [model.tokenizer.token_text(i) for i in token_ids] if body.return_token_strs else UNSET
        count, limit = len(token_ids), model.info.max_model_len
        max_tokens = _max_tokens(body, limit - count)
        num_cached = None
        if 0 < count <= limit:
            num_cached = await model.engine.num_cached(token_ids, api.cache_salt(request, body.cache_salt))
        is_queue_empty = model.engine.status.stats.num_waiting == 0
        answer = TokenizeAnswer(
            count=count,
            max_model_len=limit,
            tokens=token_ids,
            fits=count > 0 and count + max_tokens <= limit,
            max_tokens=max_tokens,
            cached_tokens=num_cached,
            expected_ttft_s=model.pace.expected_ttft_s(count - (num_cached or 0), is_queue_empty=is_queue_empty),
            token_strs=token_strs,
        )
        return Response(msgspec.json.encode(answer), media_type="application/json")

    @router.post(
        "/detokenize", openapi_extra=reads(DetokenizeRequest, {"tokens": [65, 66, 67]}) | gives(DetokenizeAnswer)
    )
    async def detokenize(body: Annotated[DetokenizeRequest, Depends(api.body(DetokenizeRequest))]) -> Response:
        """The text of token ids, special tokens included."""
        model = api.served.find(body.model)
        check_token_ids(body.tokens, model.info.vocab_size, "tokens")
        text = await off_loop(lambda: model.tokenizer.decode(body.tokens, skip_special_tokens=False), len(body.tokens))
        return Response(msgspec.json.encode(DetokenizeAnswer(text)), media_type="application/json")

    @router.get("/tokenizer_info", openapi_extra=gives(TokenizerInfo))
    async def tokenizer_info(model: str | None = None) -> Response:
        """The special tokens, for programs that count tokens by /tokenize instead of loading the tokenizer."""
        tokenizer = api.served.find(model).tokenizer
        answer = TokenizerInfo(tokenizer.bos_token, tokenizer.eos_token)
        return Response(msgspec.json.encode(answer), media_type="application/json")

    return router


def _max_tokens(body: TokenizeRequest, room: int) -> int:
    """What a request may generate that asks for as much as this one says."""
    if body.max_tokens is not None:
        return body.max_tokens
    default = None if body.prompt is None else CompletionRequest.default_max_tokens
    return max(min(default or room, room), 1)
