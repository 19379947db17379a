"""Text of requests -> prompts, off the event loop where it takes long."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import JsonValue

from server.errors import ContextLengthExceeded, InvalidRequest
from server.protocol.chat import Conversation
from server.protocol.tools import ToolUse
from server.served import ServedModel
from server.text.dialect import Dialect
from server.text.template import TemplateError

# About a millisecond of tokenizing; less isn't worth a thread.
MAX_INLINE_CHARS = 2000

T = TypeVar("T")


async def off_loop(work: Callable[[], T], num_chars: int) -> T:
    """The work's result; in a thread if there is much text to work on."""
    return work() if num_chars <= MAX_INLINE_CHARS else await asyncio.to_thread(work)


async def encode_texts(model: ServedModel, texts: Sequence[str], add_special_tokens: bool) -> list[list[int]]:
    """Token ids of each text. Raises ContextLengthExceeded for what can't fit, without tokenizing it."""
    for text in texts:
        _refuse_hopeless(model, text, "prompt")
    return await off_loop(
        lambda: model.tokenizer.encode_many(texts, add_special_tokens), sum(len(text) for text in texts)
    )


async def encode_continuation(model: ServedModel, text: str) -> list[int]:
    """Token ids of a text that others come before. Raises ContextLengthExceeded for what can't fit."""
    _refuse_hopeless(model, text, "suffix")
    return await off_loop(lambda: model.tokenizer.encode_continuation(text), len(text))


@dataclass(frozen=True, slots=True)
class EncodedConversation:
    """Messages as the model reads them."""

    token_ids: list[int]
    is_thinking: bool
    """Whether the prompt ends within the model's thoughts."""


async def encode_conversation(model: ServedModel, body: Conversation) -> EncodedConversation:
    """Renders messages and tools. Raises InvalidRequest with the template's words, ContextLengthExceeded."""
    dialect = model.dialect
    tools = _tools(dialect, body.tool_use)
    kwargs = _effort(model, body.reasoning_effort) | _verbosity(dialect, body.verbosity) | body.chat_template_kwargs
    num_chars = sum(len(message.text) for message in body.messages)

    def render_and_encode() -> EncodedConversation:
        try:
            rendered = model.template.render(
                dialect.messages([message.for_template() for message in body.messages], tools),
                tools=None if dialect.has_tools_in_text else tools or None,
                add_generation_prompt=body.opens_answer,
                continue_final_message=body.continue_final_message,
                kwargs=kwargs,
            )
        except TemplateError as error:
            raise InvalidRequest(str(error), param="messages") from None
        _refuse_hopeless(model, rendered.text, "messages")
        ids = model.tokenizer.encode_rendered(rendered)
        bos = model.info.bos_token_id
        if body.add_special_tokens and bos is not None and ids[:1] != [bos]:
            ids = [bos, *ids]
        return EncodedConversation(ids, dialect.tags is not None and dialect.tags.is_open_after(rendered.text))

    # Templates are programs, and loop over tool calls and extra arguments too: many messages count as much text.
    return await off_loop(render_and_encode, num_chars + 100 * len(body.messages) + 1000 * len(tools))


def _tools(dialect: Dialect, use: ToolUse) -> list[dict[str, Any]]:
    if use.offers and dialect.tool_format is None:
        raise InvalidRequest(
            "the server doesn't know how this model writes tool calls; start it with --tool-call-parser",
            param=use.param,
        )
    return [offer.function.for_template() for offer in use.offers]


def _effort(model: ServedModel, effort: str | None) -> dict[str, JsonValue]:
    if effort is None:
        return {}
    variables = model.dialect.effort(effort)
    if not variables and effort != "medium" and not model.can_bound_thoughts:
        raise InvalidRequest(
            f"{effort!r} makes no difference to this model: its chat template can't be told, and it has no tags around "
            "its thoughts",
            param="reasoning_effort",
        )
    return variables


def _verbosity(dialect: Dialect, verbosity: str | None) -> dict[str, JsonValue]:
    if verbosity is None or (verbosity == "medium" and "verbosity" not in dialect.variables):
        return {}
    if "verbosity" not in dialect.variables:
        raise InvalidRequest(
            "it makes no difference to this model: its chat template can't be told; ask in the prompt",
            param="verbosity",
        )
    return {"verbosity": verbosity}


def _refuse_hopeless(model: ServedModel, text: str, param: str) -> None:
    at_least, limit = model.tokenizer.min_num_tokens(text), model.info.max_model_len
    if at_least > limit:
        raise ContextLengthExceeded(
            f"{param} has at least {at_least} tokens, the model's context is {limit}; shorten it", param=param
        )
