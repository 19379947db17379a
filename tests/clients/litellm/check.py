"""LiteLLM, in its library form."""

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from claims import BASE_URL, MODEL, check, raises
from pydantic import BaseModel, Field

# isort: split
# docs: begin
import litellm

server = {"api_base": BASE_URL, "api_key": "none"}
answer = litellm.completion(f"openai/{MODEL}", [{"role": "user", "content": "Hello!"}], max_tokens=32, **server)
# docs: end

MESSAGES = [{"role": "user", "content": "What is the weather in Oslo?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Oslo", "Paris"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


class Animal(BaseModel):
    """An animal."""

    kind: Literal["cat", "dog", "bird"]
    legs: Annotated[int, Field(ge=0, le=8)]
    tame: bool


def ask(**fields: Any) -> Any:
    defaults = {"model": f"openai/{MODEL}", "messages": MESSAGES, "max_tokens": 200}
    return litellm.completion(**{**defaults, **server, **fields})


def chat() -> Iterator[str]:
    answer = ask(max_tokens=24)
    assert isinstance(answer.choices[0].message.content, str)
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    yield "an answer has text, a reason to end, and counts that add up"


def stream() -> Iterator[str]:
    fields = {"temperature": 0, "max_tokens": 24}
    plain = ask(**fields)
    chunks = list(ask(**fields, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == (
        plain.choices[0].message.content
    )
    whole = litellm.stream_chunk_builder(chunks, messages=MESSAGES)
    assert whole.choices[0].message.content == plain.choices[0].message.content
    assert whole.choices[0].finish_reason == plain.choices[0].finish_reason
    assert whole.usage.completion_tokens == plain.usage.completion_tokens
    yield "the deltas add up to the plain answer, by hand and by the client's own builder"


def tools() -> Iterator[str]:
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        calls = ask(tools=[WEATHER], tool_choice=choice, parallel_tool_calls=False).choices[0].message.tool_calls
        assert calls
        for call in calls:
            assert call.function.name == "get_weather"
            assert json.loads(call.function.arguments)["city"] in ("Oslo", "Paris")
    yield "a required and a named tool are called with arguments that fit their schema"
    chunks = list(ask(tools=[WEATHER], tool_choice="required", parallel_tool_calls=False, stream=True))
    whole = litellm.stream_chunk_builder(chunks)
    message = whole.choices[0].message
    for call in message.tool_calls:
        assert call.id
        assert json.loads(call.function.arguments)["city"] in ("Oslo", "Paris")
    yield "the chunks of a streamed call add up to one"
    results = [{"role": "tool", "tool_call_id": call.id, "content": "clear"} for call in message.tool_calls]
    told = [*MESSAGES, message.model_dump(), *results]
    assert ask(messages=told, tools=[WEATHER], max_tokens=100).choices[0].finish_reason
    yield "the tool's answer goes back, and the model may call again or not"


def structured() -> Iterator[str]:
    Animal.model_validate_json(ask(response_format=Animal).choices[0].message.content)
    yield "a pydantic model's schema is kept to"
    choice = ask(response_format={"type": "json_object"}).choices[0]
    assert choice.finish_reason == "length" or isinstance(json.loads(choice.message.content), dict)
    yield "json_object gives an object"
    assert ask(extra_body={"guided_choice": ["yes", "no"]}).choices[0].message.content in ("yes", "no")
    yield "fields beyond OpenAI's reach the server"


def completions() -> Iterator[str]:
    answer = litellm.text_completion(model=f"text-completion-openai/{MODEL}", prompt="Once", max_tokens=8, **server)
    assert isinstance(answer.choices[0].text, str)
    yield "a prompt is continued"


def errors() -> Iterator[str]:
    with raises(litellm.NotFoundError) as caught:
        ask(model="openai/no-such-model")
    assert "no such model" in str(caught.error)
    with raises(litellm.BadRequestError) as caught:
        ask(temperature=3)
    assert "temperature" in str(caught.error)
    yield "what is wrong or unknown is the client's own exception, in the server's words"


check(chat, stream, tools, structured, completions, errors)
