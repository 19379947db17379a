"""The official client for Python."""

import asyncio
import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import openai
from claims import BASE_URL, MODEL, check, raises
from pydantic import BaseModel, Field

# isort: split
# docs: begin
from openai import OpenAI

client = OpenAI(base_url=BASE_URL, api_key="none")
# docs: end

MESSAGES: Any = [{"role": "user", "content": "What is the weather in Oslo?"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"enum": ["Oslo", "Paris"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["city", "days"],
            "additionalProperties": False,
        },
    },
}
TIME: Any = {
    "type": "function",
    "function": {
        "name": "get_time",
        "parameters": {
            "type": "object",
            "properties": {"zone": {"enum": ["UTC", "CET"]}},
            "required": ["zone"],
            "additionalProperties": False,
        },
    },
}


class Weather(BaseModel):
    """The arguments of `get_weather`."""

    city: Literal["Oslo", "Paris"]
    days: Annotated[int, Field(ge=1, le=7)]


class Animal(BaseModel):
    """An animal."""

    kind: Literal["cat", "dog", "bird"]
    legs: Annotated[int, Field(ge=0, le=8)]
    name: Annotated[str, Field(max_length=12)]
    tame: bool


def ask(**fields: Any) -> Any:
    return client.chat.completions.create(**{"model": MODEL, "messages": MESSAGES, "max_tokens": 200} | fields)


def models() -> Iterator[str]:
    listed = client.models.list().data
    assert MODEL in [model.id for model in listed]
    assert client.models.retrieve(MODEL).object == "model"
    yield "the served model is listed and found"


def chat() -> Iterator[str]:
    answer = ask(max_tokens=24)
    (choice,) = answer.choices
    assert (answer.object, choice.message.role) == ("chat.completion", "assistant")
    assert isinstance(choice.message.content, str)
    assert choice.finish_reason in ("stop", "length")
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    yield "an answer has text, a reason to end, and counts that add up"
    answer = ask(max_tokens=8, n=2, logprobs=True, top_logprobs=2)
    assert [choice.index for choice in answer.choices] == [0, 1]
    assert all(len(token.top_logprobs) == 2 for choice in answer.choices for token in choice.logprobs.content)
    yield "two choices come with log-probabilities and alternatives"
    parts = [{"type": "text", "text": "Hello"}, {"type": "text", "text": "you"}]
    history = [
        {"role": "developer", "content": "Be kind."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": "Hello!"},
        *MESSAGES,
    ]
    assert ask(messages=history, max_tokens=8).choices[0].finish_reason
    yield "a history of turns and content parts is taken"

    async def asynchronously() -> Any:
        async with openai.AsyncOpenAI(base_url=BASE_URL, api_key="none") as http:
            return await http.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=8)

    assert asyncio.run(asynchronously()).choices[0].message.role == "assistant"
    yield "the asynchronous client is answered"


def stream() -> Iterator[str]:
    fields = {"temperature": 0, "max_tokens": 24}
    plain = ask(**fields)
    first, *chunks, end, usage = ask(**fields, stream=True, stream_options={"include_usage": True})
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    yield "the first chunk has the role"
    assert end.choices[0].finish_reason == plain.choices[0].finish_reason
    assert not end.choices[0].delta.content
    assert all(chunk.choices[0].finish_reason is None for chunk in (first, *chunks))
    yield "the reason to end has a chunk of its own"
    assert usage.choices == []
    assert (usage.usage.prompt_tokens, usage.usage.completion_tokens) == (
        plain.usage.prompt_tokens,
        plain.usage.completion_tokens,
    )
    yield "usage comes last, without choices"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == plain.choices[0].message.content
    yield "the deltas add up to the plain answer"
    with client.chat.completions.stream(model=MODEL, messages=MESSAGES, **fields) as events:
        assert "content.delta" in [event.type for event in events]
        assert events.current_completion_snapshot.choices[0].message.content == plain.choices[0].message.content
    yield "the client's own accumulator comes to the same answer"


def tools() -> Iterator[str]:
    named = {"type": "function", "function": {"name": "get_weather"}}
    for choice in ("required", named):
        answer = ask(tools=[TIME, WEATHER], tool_choice=choice, parallel_tool_calls=False).choices[0]
        assert answer.finish_reason in ("tool_calls", "stop")
        (call,) = answer.message.tool_calls
        _check_call(call)
    assert call.function.name == "get_weather"
    yield "a required and a named tool are called once, with arguments that fit their schema"
    answer = ask(tools=[TIME, WEATHER], tool_choice="required").choices[0]
    for call in answer.message.tool_calls[: -1 if answer.finish_reason == "length" else None]:
        _check_call(call)
    yield "several calls may come at once"
    answer = ask(tools=[WEATHER, TIME], max_tokens=100).choices[0]
    assert answer.finish_reason in ("stop", "length", "tool_calls")
    assert (answer.finish_reason == "tool_calls") <= bool(answer.message.tool_calls)
    assert ask(tools=[WEATHER], tool_choice="none", max_tokens=8).choices[0].message.tool_calls is None
    yield "auto lets the model choose, none leaves tools alone"
    for tool_choice in ("required", "auto"):
        _check_deltas(ask(tools=[WEATHER, TIME], tool_choice=tool_choice, stream=True))
    yield "a streamed call has index, id and name first, then arguments that add up to JSON"
    told = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": '{"sky": "clear"}'},
    ]
    assert ask(messages=told, tools=[WEATHER], tool_choice="none", max_tokens=16).choices[0].message.role == "assistant"
    yield "the tool's answer goes back into the conversation"
    parsed = client.chat.completions.parse(
        model=MODEL,
        messages=MESSAGES,
        tools=[openai.pydantic_function_tool(Weather, name="get_weather")],
        tool_choice="required",
        parallel_tool_calls=False,
    )
    assert isinstance(parsed.choices[0].message.tool_calls[0].function.parsed_arguments, Weather)
    yield "arguments are parsed into the client's model"
    older = ask(functions=[WEATHER["function"] | {"strict": None}], function_call={"name": "get_weather"}).choices[0]
    assert older.message.function_call.name == "get_weather"
    Weather.model_validate_json(older.message.function_call.arguments)
    yield "the older functions are answered in the older form"


def _check_call(call: Any) -> None:
    assert call.type == "function"
    assert call.id
    arguments = json.loads(call.function.arguments)
    if call.function.name == "get_weather":
        Weather.model_validate(arguments)
    else:
        assert call.function.name == "get_time"
        assert set(arguments) == {"zone"}


def _check_deltas(chunks: Any) -> None:
    calls: list[dict[str, str]] = []
    reasons = []
    for chunk in chunks:
        (choice,) = chunk.choices
        reasons += [choice.finish_reason] if choice.finish_reason else []
        for delta in choice.delta.tool_calls or ():
            if delta.index == len(calls):
                assert delta.id
                assert delta.type == "function"
                calls.append({"name": delta.function.name, "arguments": ""})
            else:
                assert delta.id is None
                assert delta.function.name is None
            assert delta.index == len(calls) - 1
            calls[-1]["arguments"] += delta.function.arguments
    (reason,) = reasons
    if reason != "length":
        assert (reason == "tool_calls") <= bool(calls)
        for call in calls:
            assert call["name"] in ("get_weather", "get_time")
            json.loads(call["arguments"])


def structured() -> Iterator[str]:
    parsed = client.chat.completions.parse(model=MODEL, messages=MESSAGES, response_format=Animal)
    assert isinstance(parsed.choices[0].message.parsed, Animal)
    assert ask(messages=[*MESSAGES, parsed.choices[0].message, *MESSAGES], max_tokens=8).choices[0].message
    yield "a pydantic model is asked for and parsed, and goes back into the conversation"
    with client.chat.completions.stream(model=MODEL, messages=MESSAGES, response_format=Animal) as events:
        for _ in events:
            pass
        assert isinstance(events.get_final_completion().choices[0].message.parsed, Animal)
    yield "and so it is from a stream"
    choice = ask(response_format={"type": "json_object"}).choices[0]
    assert choice.finish_reason == "length" or isinstance(json.loads(choice.message.content), dict)
    yield "json_object gives an object"
    for extra in ({"guided_choice": ["yes", "no"]}, {"structured_outputs": {"regex": "yes|no"}}):
        assert ask(extra_body=extra).choices[0].message.content in ("yes", "no")
    yield "choices and regular expressions hold"
    with raises(openai.BadRequestError) as caught:
        ask(response_format={"type": "json_schema", "json_schema": {"name": "bad", "schema": {"type": "thing"}}})
    assert caught.error.param.startswith("response_format")
    yield "a bad schema is refused by name"


def completions() -> Iterator[str]:
    answer = client.completions.create(model=MODEL, prompt="Once", max_tokens=8, echo=True, logprobs=1)
    choice = answer.choices[0]
    assert choice.text.startswith("Once")
    assert len(choice.logprobs.tokens) == answer.usage.total_tokens
    yield "a prompt is continued, with the log-probability of each token"
    fields: dict[str, Any] = {"model": MODEL, "prompt": "Once", "max_tokens": 16, "temperature": 0}
    plain = client.completions.create(**fields).choices[0].text
    assert "".join(chunk.choices[0].text for chunk in client.completions.create(**fields, stream=True)) == plain
    yield "and so it is as a stream"


def errors() -> Iterator[str]:
    for param, value in (("temperature", 3), ("modalities", ["text", "audio"])):
        with raises(openai.BadRequestError) as caught:
            ask(**{param: value})
        assert caught.error.param == param
    yield "what is wrong or not supported is refused by name"
    with raises(openai.NotFoundError) as caught:
        ask(model="no-such-model", stream=True)
    assert caught.error.code == "model_not_found"
    yield "an unknown model is not found"


check(models, chat, stream, tools, structured, completions, errors)
