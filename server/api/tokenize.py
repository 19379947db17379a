"""`POST /tokenize`, `POST /detokenize` and `GET /tokenizer_info`."""

from typing import Annotated

import msgspec
from fastapi import APIRouter, Depends
from msgspec import UNSET
from starlette.responses import Response

from server.api.context import ApiContext
from server.api.openapi import gives, reads
from server.api.prompts import encode_conversation, encode_texts, off_loop
from server.protocol.common import check_token_ids
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
    async def tokenize(body: Annotated[TokenizeRequest, Depends(api.body(TokenizeRequest))]) -> Response:
        """The token ids of a prompt, or of messages as chat would render them."""
        model = api.served.find(body.model)
        body.check()
        if body.prompt is None:
            token_ids = (await encode_conversation(model, body)).token_ids
        else:
            [token_ids] = await encode_texts(model, [body.prompt], body.add_special_tokens is not False)
        token_strs = [model.tokenizer.token_text(i) for i in token_ids] if body.return_token_strs else UNSET
        answer = TokenizeAnswer(len(token_ids), model.info.max_model_len, token_ids, token_strs)
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
