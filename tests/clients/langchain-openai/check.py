"""LangChain, through its package for OpenAI."""

from collections.abc import Iterator
from typing import Annotated, Literal

import openai
from claims import BASE_URL, MODEL, check, raises
from langchain_core.messages import AIMessage, AIMessageChunk, HumanMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel, Field

# isort: split
# docs: begin
from langchain_openai import ChatOpenAI

llm = ChatOpenAI(base_url=BASE_URL, api_key="none", model=MODEL)
# docs: end

QUESTION = "What is the weather in Oslo?"


@tool
def get_weather(city: Literal["Oslo", "Paris"], days: Annotated[int, Field(ge=1, le=7)]) -> str:
    """The weather in a city."""
    return f"clear in {city} for {days} days"


class Animal(BaseModel):
    """An animal."""

    kind: Literal["cat", "dog", "bird"]
    legs: Annotated[int, Field(ge=0, le=8)]
    tame: bool


def chat() -> Iterator[str]:
    answer = llm.bind(max_tokens=24).invoke(QUESTION)
    assert isinstance(answer, AIMessage)
    assert isinstance(answer.content, str)
    assert answer.response_metadata["finish_reason"] in ("stop", "length")
    counts = answer.usage_metadata
    assert counts["total_tokens"] == counts["input_tokens"] + counts["output_tokens"]
    yield "an answer has text, a reason to end, and counts that add up"
    assert all(isinstance(one, AIMessage) for one in llm.bind(max_tokens=8).batch([QUESTION, "Hello!"]))
    yield "a batch is answered"


def stream() -> Iterator[str]:
    greedy = llm.bind(temperature=0, max_tokens=24)
    plain = greedy.invoke(QUESTION)
    whole = AIMessageChunk(content="")
    for chunk in greedy.stream(QUESTION, stream_usage=True):
        whole += chunk
    assert whole.content == plain.content
    assert whole.usage_metadata["output_tokens"] == plain.usage_metadata["output_tokens"]
    assert whole.response_metadata["finish_reason"] == plain.response_metadata["finish_reason"]
    yield "the chunks add up to the plain answer, its counts and its reason to end"


def tools() -> Iterator[str]:
    for choice in ("required", "get_weather"):
        answer = llm.bind_tools([get_weather], tool_choice=choice, parallel_tool_calls=False).invoke(QUESTION)
        assert answer.tool_calls, answer
        assert not answer.invalid_tool_calls
        results = [get_weather.invoke(call) for call in answer.tool_calls]
        assert all(isinstance(result, ToolMessage) for result in results)
    yield "a required and a named tool are called with arguments that the tool takes"
    whole = AIMessageChunk(content="")
    for chunk in llm.bind_tools([get_weather], tool_choice="required", parallel_tool_calls=False).stream(QUESTION):
        whole += chunk
    assert whole.tool_calls
    assert not whole.invalid_tool_calls
    yield "the chunks of a streamed call add up to one"
    told = [HumanMessage(QUESTION), answer, *results]
    assert isinstance(llm.bind_tools([get_weather]).bind(max_tokens=100).invoke(told), AIMessage)
    yield "the tool's answer goes back, and the model may call again or not"


def structured() -> Iterator[str]:
    for method in ("json_schema", "function_calling"):
        assert isinstance(llm.with_structured_output(Animal, method=method).invoke(QUESTION), Animal)
    yield "a pydantic model comes back, by schema and by function call"
    *_, last = llm.with_structured_output(Animal, method="json_schema").stream(QUESTION)
    assert isinstance(last, Animal)
    yield "and so it does from a stream"


def errors() -> Iterator[str]:
    with raises(openai.NotFoundError) as caught:
        ChatOpenAI(base_url=BASE_URL, api_key="none", model="no-such-model").invoke(QUESTION)
    assert caught.error.code == "model_not_found"
    yield "an unknown model is not found"


check(chat, stream, tools, structured, errors)
