"""LlamaIndex, through its class for OpenAI-like servers."""

import asyncio
from collections.abc import Iterator
from typing import Annotated, Literal

from claims import BASE_URL, MODEL, check
from llama_index.core.base.llms.types import ChatMessage, MessageRole
from llama_index.core.program import FunctionCallingProgram
from llama_index.core.tools import FunctionTool
from pydantic import BaseModel, Field

# isort: split
# docs: begin
from llama_index.llms.openai_like import OpenAILike

llm = OpenAILike(
    model=MODEL,
    api_base=BASE_URL,
    api_key="none",
    is_chat_model=True,
    is_function_calling_model=True,
    should_use_structured_outputs=True,
)
# docs: end

QUESTION = ChatMessage("What is the weather in Oslo?")


class Animal(BaseModel):
    """An animal."""

    kind: Literal["cat", "dog", "bird"]
    legs: Annotated[int, Field(ge=0, le=8)]
    tame: bool


def get_weather(city: Literal["Oslo", "Paris"]) -> str:
    """The weather in a city."""
    return f"clear in {city}"


TOOL = FunctionTool.from_defaults(get_weather)


def chat() -> Iterator[str]:
    answer = llm.chat([QUESTION], max_tokens=24)
    assert answer.message.role == MessageRole.ASSISTANT
    assert isinstance(answer.message.content, str)
    assert answer.raw.choices[0].finish_reason in ("stop", "length")
    yield "an answer has text and a reason to end"
    assert asyncio.run(llm.achat([QUESTION], max_tokens=8)).message.role == MessageRole.ASSISTANT
    yield "the asynchronous call is answered"


def stream() -> Iterator[str]:
    plain = llm.chat([QUESTION], temperature=0, max_tokens=24)
    chunks = list(llm.stream_chat([QUESTION], temperature=0, max_tokens=24))
    assert "".join(chunk.delta or "" for chunk in chunks) == plain.message.content
    assert chunks[-1].message.content == plain.message.content
    yield "the deltas add up to the plain answer"


def tools() -> Iterator[str]:
    answer = llm.chat_with_tools([TOOL], user_msg=QUESTION, tool_required=True)
    calls = llm.get_tool_calls_from_response(answer)
    assert calls
    for call in calls:
        assert TOOL.call(**call.tool_kwargs).content.startswith("clear in ")
    yield "a required tool is called with arguments that it takes"
    *_, last = llm.stream_chat_with_tools([TOOL], user_msg=QUESTION, tool_required=True)
    for call in llm.get_tool_calls_from_response(last):
        assert call.tool_kwargs["city"] in ("Oslo", "Paris")
    yield "the chunks of a streamed call add up to one"
    results = [
        ChatMessage("clear", role=MessageRole.TOOL, additional_kwargs={"tool_call_id": call.tool_id}) for call in calls
    ]
    told = llm.chat_with_tools([TOOL], chat_history=[QUESTION, answer.message, *results], max_tokens=100)
    assert told.message.role == MessageRole.ASSISTANT
    yield "the tool's answer goes back, and the model may call again or not"
    program = FunctionCallingProgram.from_defaults(Animal, prompt_template_str="Which animal?", llm=llm)
    assert isinstance(program(), Animal)
    yield "a pydantic model is filled by a function call"


def structured() -> Iterator[str]:
    structured = llm.as_structured_llm(Animal)
    assert isinstance(structured.chat([QUESTION]).raw, Animal)
    yield "a pydantic model comes back by its JSON schema"
    *_, last = structured.stream_chat([QUESTION])
    assert isinstance(last.raw, Animal)
    yield "and so it does from a stream"


def completions() -> Iterator[str]:
    plain = llm.model_copy(update={"is_chat_model": False, "max_tokens": 16, "temperature": 0.0})
    text = plain.complete("Once").text
    assert isinstance(text, str)
    assert "".join(chunk.delta or "" for chunk in plain.stream_complete("Once")) == text
    yield "a prompt is continued, whole and as a stream"


check(chat, stream, tools, structured, completions)
