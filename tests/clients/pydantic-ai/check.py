"""Pydantic AI, with its provider for OpenAI-compatible servers."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Literal

from claims import BASE_URL, MODEL, check, raises
from pydantic import BaseModel, Field
from pydantic_ai import Agent, ModelHTTPError, NativeOutput, ToolOutput, UsageLimits
from pydantic_ai.exceptions import UsageLimitExceeded
from pydantic_ai.messages import ModelRequest, ModelResponse, ToolCallPart, ToolReturnPart, UserPromptPart

# isort: split
# docs: begin
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai_compatible import OpenAICompatibleProvider

provider = OpenAICompatibleProvider("nexttoken", base_url=BASE_URL, api_key="none")
model = OpenAIChatModel(MODEL, provider=provider)
# docs: end

QUESTION = "What is the weather in Oslo?"


class Animal(BaseModel):
    """An animal."""

    kind: Literal["cat", "dog", "bird"]
    legs: Annotated[int, Field(ge=0, le=8)]
    tame: bool


def get_weather(city: Literal["Oslo", "Paris"]) -> str:
    """The weather in a city."""
    return f"clear in {city}"


def chat() -> Iterator[str]:
    result = Agent(model, model_settings={"max_tokens": 24}).run_sync(QUESTION)
    assert isinstance(result.output, str)
    assert result.usage.input_tokens > 0
    assert result.usage.output_tokens > 0
    yield "an answer has text and counts"


def stream() -> Iterator[str]:
    agent = Agent(model, model_settings={"max_tokens": 24, "temperature": 0})

    async def deltas() -> str:
        async with agent.run_stream(QUESTION) as result:
            return "".join([delta async for delta in result.stream_text(delta=True)])

    assert asyncio.run(deltas()) == agent.run_sync(QUESTION).output
    yield "the deltas add up to the plain answer"


def tools() -> Iterator[str]:
    agent = Agent(model, output_type=ToolOutput(Animal), model_settings={"parallel_tool_calls": False}, retries=0)
    assert isinstance(agent.run_sync(QUESTION).output, Animal)
    yield "an output tool is called with arguments that fit its schema"

    async def streamed() -> Animal:
        async with agent.run_stream(QUESTION) as result:
            return await result.get_output()

    assert isinstance(asyncio.run(streamed()), Animal)
    yield "and so it is from a stream"
    agent = Agent(model, tools=[get_weather], model_settings={"max_tokens": 100})
    history = [
        ModelRequest([UserPromptPart(QUESTION)]),
        ModelResponse([ToolCallPart("get_weather", {"city": "Oslo"}, "call_1")]),
        ModelRequest([ToolReturnPart("get_weather", "clear in Oslo", "call_1")]),
    ]
    with suppress(UsageLimitExceeded):  # The model may call again, and again.
        assert agent.run_sync(message_history=history, usage_limits=UsageLimits(request_limit=2)).output
    yield "the tool's answer goes back, and the model may call again or not"


def structured() -> Iterator[str]:
    agent = Agent(model, output_type=NativeOutput(Animal, strict=True), retries=0)
    assert isinstance(agent.run_sync(QUESTION).output, Animal)
    yield "a pydantic model comes back by its JSON schema"


def errors() -> Iterator[str]:
    with raises(ModelHTTPError) as caught:
        Agent(OpenAIChatModel("no-such-model", provider=provider)).run_sync(QUESTION)
    assert caught.error.status_code == 404
    yield "an unknown model is not found"


check(chat, stream, tools, structured, errors)
