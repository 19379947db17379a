"""Text of requests -> prompts, off the event loop where it takes long."""

import asyncio
from collections.abc import Callable, Sequence
from typing import TypeVar

from server.errors import ContextLengthExceeded, InvalidRequest
from server.protocol.chat import Conversation
from server.served import ServedModel
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


async def encode_conversation(model: ServedModel, body: Conversation) -> list[int]:
    """Token ids of the rendered messages. Raises InvalidRequest with the template's words, ContextLengthExceeded."""
    num_chars = sum(len(message.text) for message in body.messages)

    def render_and_encode() -> list[int]:
        try:
            rendered = model.template.render(
                [message.for_template() for message in body.messages],
                add_generation_prompt=body.opens_answer,
                continue_final_message=body.continue_final_message,
                kwargs=body.chat_template_kwargs,
            )
        except TemplateError as error:
            raise InvalidRequest(str(error), param="messages") from None
        _refuse_hopeless(model, rendered.text, "messages")
        ids = model.tokenizer.encode_rendered(rendered)
        bos = model.info.bos_token_id
        return [bos, *ids] if body.add_special_tokens and bos is not None and ids[:1] != [bos] else ids

    # Templates are programs, and loop over tool calls and extra arguments too: many messages count as much text.
    return await off_loop(render_and_encode, num_chars + 100 * len(body.messages))


def _refuse_hopeless(model: ServedModel, text: str, param: str) -> None:
    at_least, limit = model.tokenizer.min_num_tokens(text), model.info.max_model_len
    if at_least > limit:
        raise ContextLengthExceeded(
            f"{param} has at least {at_least} tokens, the model's context is {limit}; shorten it", param=param
        )
