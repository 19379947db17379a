"""Tools with the real engine: calls fit their schemas at any temperature, and the bundled model calls by itself."""

import json
import re
from collections.abc import Iterable
from typing import Any

import jsonschema
import openai
import pytest

from tests.e2e.server_process import ServerProcess

WEATHER = {
    "type": "object",
    "properties": {
        "town": {"type": "string", "maxLength": 12},
        "unit": {"enum": ["C", "F"]},
        "days": {"type": "array", "items": {"type": "integer", "minimum": 1, "maximum": 7}, "maxItems": 3},
    },
    "required": ["town", "unit", "days"],
    "additionalProperties": False,
}
SUM = {
    "type": "object",
    "properties": {"a": {"type": "integer", "maximum": 99, "minimum": 0}},
    "required": ["a"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER, "strict": True}},
    {"type": "function", "function": {"name": "sum", "parameters": SUM, "strict": True}},
]
SCHEMAS = {"weather": WEATHER, "sum": SUM}
MESSAGES: list[Any] = [{"role": "user", "content": "What is the weather in Ulm?"}]


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterable[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def chat(client: openai.OpenAI, **fields: Any) -> Any:
    body = {"model": "nexttoken-tiny", "messages": MESSAGES, "tools": TOOLS, "max_completion_tokens": 200, **fields}
    return client.chat.completions.create(**body)


def check_calls(calls: Any) -> list[str]:
    """Names of the calls, each of which fits its schema."""
    for call in calls:
        jsonschema.validate(json.loads(call.function.arguments), SCHEMAS[call.function.name])
    return [call.function.name for call in calls]


@pytest.mark.parametrize("temperature", [0, 2])
@pytest.mark.parametrize("seed", range(3))
def test_a_required_call_is_made_and_fits(client: openai.OpenAI, temperature: float, seed: int) -> None:
    fields = {"tool_choice": "required", "parallel_tool_calls": False, "temperature": temperature, "seed": seed}
    choice = chat(client, **fields).choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert len(check_calls(choice.message.tool_calls)) == 1
    with client.chat.completions.stream(
        model="nexttoken-tiny", messages=MESSAGES, tools=TOOLS, max_completion_tokens=200, **fields
    ) as events:
        for _ in events:
            pass
        streamed = events.get_final_completion().choices[0]
    assert [call.function.arguments for call in streamed.message.tool_calls] == [
        call.function.arguments for call in choice.message.tool_calls
    ]


def test_several_required_calls_all_fit(client: openai.OpenAI) -> None:
    for seed in range(4):
        choice = chat(client, tool_choice="required", seed=seed, temperature=1.5).choices[0]
        calls = choice.message.tool_calls
        check_calls(calls if choice.finish_reason == "tool_calls" else calls[:-1])


def test_a_named_tool_is_the_one_that_is_called(client: openai.OpenAI) -> None:
    for name in SCHEMAS:
        choice = chat(client, tool_choice={"type": "function", "function": {"name": name}}).choices[0]
        assert check_calls(choice.message.tool_calls) == [name]


def test_the_older_form_names_its_function_too(client: openai.OpenAI) -> None:
    functions = [tool["function"] for tool in TOOLS]
    choice = chat(client, tools=None, functions=functions, function_call={"name": "sum"}).choices[0]
    assert choice.finish_reason == "function_call"
    jsonschema.validate(json.loads(choice.message.function_call.arguments), SUM)


def test_an_answer_of_a_form_may_be_a_call_instead(client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "sum", "schema": SUM, "strict": True}}
    choice = chat(client, response_format=form).choices[0]
    if choice.message.tool_calls:
        check_calls(choice.message.tool_calls)
    else:
        jsonschema.validate(json.loads(choice.message.content), SUM)


def offered(name: str, /, **types: str) -> dict[str, Any]:
    """A tool by its name and its parameters' types."""
    schema = {
        "type": "object",
        "properties": {key: {"type": kind} for key, kind in types.items()},
        "required": [*types],
    }
    return {"type": "function", "function": {"name": name, "description": "A tool.", "parameters": schema}}


TOOLBOX = [
    offered("get_weather", city="string"),
    offered("add", a="integer", b="integer"),
    # Words of names that the bundled model was never trained on.
    offered("retrieve_nationality", name="string"),
]


@pytest.mark.parametrize(
    ("question", "name", "arguments", "result", "told"),
    [
        ("What is the weather in Paris?", "get_weather", {"city": "Paris"}, '{"weather": "sunny"}', ["sunny", "Paris"]),
        ("What is 37 + 46?", "add", {"a": 37, "b": 46}, "83", ["83"]),
        ("What is the nationality of Clara?", "retrieve_nationality", {"name": "Clara"}, "Dutch", ["Dutch", "Clara"]),
    ],
)
def test_the_bundled_model_goes_from_question_to_tool_to_answer(
    client: openai.OpenAI, question: str, name: str, arguments: dict[str, Any], result: str, told: list[str]
) -> None:
    asked: list[Any] = [{"role": "user", "content": question}]
    called = chat(client, messages=asked, tools=TOOLBOX, temperature=0).choices[0]
    assert (called.finish_reason, called.message.content) == ("tool_calls", None)
    (call,) = called.message.tool_calls
    assert (call.function.name, json.loads(call.function.arguments)) == (name, arguments)
    found = {"role": "tool", "tool_call_id": call.id, "content": result}
    answer = chat(client, messages=[*asked, called.message, found], tools=TOOLBOX, temperature=0).choices[0]
    assert answer.finish_reason == "stop"
    assert all(word in answer.message.content for word in told)


@pytest.mark.parametrize("said", ["Hello!", "Who are you?", "Tell me a story about a cat."])
def test_the_bundled_model_calls_nothing_that_it_does_not_need(client: openai.OpenAI, said: str) -> None:
    asked = [{"role": "user", "content": said}]
    answer = chat(client, messages=asked, tools=TOOLBOX, temperature=0, max_completion_tokens=20).choices[0]
    assert answer.finish_reason in ("stop", "length")
    assert answer.message.content
    assert not answer.message.tool_calls


def test_a_schema_that_is_none_is_refused_by_name(client: openai.OpenAI) -> None:
    tools = [TOOLS[0], {"type": "function", "function": {"name": "x", "parameters": {"properties": {"a": 3}}}}]
    for choice in ("auto", "required"):
        with pytest.raises(openai.BadRequestError) as refusal:
            chat(client, tools=tools, tool_choice=choice)
        assert refusal.value.param == "tools.1.function.parameters"


LARK = """
start: _PAIR " " word
word: "\\"" /[ü\\n]{3}/ "\\""
_PAIR: LETTER LETTER
LETTER: "a".."c"
"""


@pytest.mark.parametrize("temperature", [0, 2])
@pytest.mark.parametrize(("syntax", "definition"), [("regex", '[a-c]{2} "[ü\\n]{3}"'), ("lark", LARK)])
def test_the_input_of_a_custom_tool_is_text_of_its_format(
    client: openai.OpenAI, temperature: float, syntax: str, definition: str
) -> None:
    grammar = {"type": "grammar", "grammar": {"syntax": syntax, "definition": definition}}
    tool = {"type": "custom", "custom": {"name": "run", "format": grammar}}
    choice = {"type": "custom", "custom": {"name": "run"}}
    fields = {"tools": [tool, *TOOLS], "tool_choice": choice, "temperature": temperature, "seed": 1}
    [call] = chat(client, **fields).choices[0].message.tool_calls
    assert call.custom.name == "run"
    assert re.fullmatch('[a-c]{2} "[ü\n]{3}"', call.custom.input)
    deltas = [chunk.choices[0].delta for chunk in chat(client, stream=True, **fields)]
    parts = [part.model_dump()["custom"] for delta in deltas for part in delta.tool_calls or []]
    assert "".join(part["input"] for part in parts) == call.custom.input
