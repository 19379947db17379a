"""`POST /v1/chat/completions`."""

from typing import Annotated

from fastapi import APIRouter, Depends
from msgspec import structs
from starlette.requests import Request
from starlette.responses import Response

from model.grammar import ANYTHING
from server.api.answers import respond
from server.api.chat_grammar import answer_form
from server.api.chat_shape import ChatShape
from server.api.context import ApiContext
from server.api.exchange import exchange_of
from server.api.generation import Prompt
from server.api.openapi import gives, reads
from server.api.prompts import encode_conversation, off_loop
from server.api.stored_chats import keeper
from server.api.thinking import thinking_budget
from server.errors import InvalidRequest
from server.protocol.chat import ChatCompletionRequest
from server.protocol.chat_answer import ChatCompletion, ChatCompletionChunk
from server.protocol.tools import ToolUse
from server.served import ServedModel
from server.text.channels import ChannelPlan
from server.text.dialect import Dialect

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
        keep = keeper(api, request, body)
        tools = body.tool_use
        encoded = await encode_conversation(model, body)
        token_ids = body.truncated(encoded.token_ids, limits)
        if not token_ids:
            raise InvalidRequest("the rendered messages have no tokens", param="messages")
        channels = _channels(model.dialect, tools, encoded.is_thinking)
        form = await answer_form(api.grammars, model, channels, tools, body.form())
        exchange_of(request).warnings += form.warnings
        params = body.sampling_params(len(token_ids), limits)
        thinking = thinking_budget(model, body, form.plan, params.max_tokens)
        grammar = form.grammar or (ANYTHING if thinking is not None else None)
        params = structs.replace(params, grammar=grammar, thinking=thinking)
        prompt = Prompt(token_ids, params, prediction_ids=await _prediction(model, body))
        run = api.run(request, body, model, [prompt], form.plan)
        return await respond(api, request, run, ChatShape(body, model, exchange_of(request).warnings), keep)

    return router


async def _prediction(model: ServedModel, body: ChatCompletionRequest) -> list[int]:
    """The tokens of the predicted answer, as far as an answer can reach."""
    if body.prediction is None:
        return []
    text = body.prediction.text
    token_ids = await off_loop(lambda: model.tokenizer.encode(text, add_special_tokens=False), len(text))
    return token_ids[: model.info.max_model_len]


def _channels(dialect: Dialect, tools: ToolUse, is_thinking: bool) -> ChannelPlan:
    return ChannelPlan(
        tags=dialect.tags,
        tool_format=dialect.tool_format if tools.offers else None,
        tool_names=tools.names,
        custom_names=tools.custom_names,
        is_thinking=is_thinking,
        max_calls=tools.max_calls,
    )
