"""No member of an object in a request is dropped in silence, however deep it lies, in any object that we read."""

import copy
from collections.abc import Iterator
from typing import Any, get_args

import pytest

from server.protocol.chat import ChatCompletionRequest
from server.protocol.completions import CompletionRequest
from server.protocol.stored_chats import UpdateChatRequest
from server.protocol.tokenize import DetokenizeRequest, TokenizeRequest
from server.protocol.wire import WireModel, unknown_fields
from tests.api.serving import ask, complete, refused, serve, stream

# What a client may fill with names of its own.
FREE = {"parameters", "schema", "json", "guided_json", "metadata", "logit_bias", "chat_template_kwargs", "parsed"}
FREE |= {"parsed_arguments"}

FUNCTION = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
GRAMMAR = {"type": "grammar", "grammar": {"syntax": "regex", "definition": "a"}}
CUSTOM = {"type": "custom", "custom": {"name": "c", "format": GRAMMAR}}
NAMED = {"type": "function", "function": {"name": "f"}}
NAMED_CUSTOM = {"type": "custom", "custom": {"name": "c"}}
CALLS = [
    {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}", "parsed_arguments": {}}},
    {"id": "2", "type": "custom", "custom": {"name": "c", "input": "x"}},
]
MESSAGES = [
    {"role": "user", "content": [{"type": "text", "text": "a"}]},
    {"role": "assistant", "content": [{"type": "refusal", "refusal": "b"}], "tool_calls": CALLS},
    {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}},
    {"role": "tool", "tool_call_id": "1", "content": "c"},
]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
CHAT = {"messages": MESSAGES, "tools": [FUNCTION, CUSTOM]}
BODIES: list[tuple[type[WireModel], dict[str, Any]]] = [
    (ChatCompletionRequest, {**CHAT, "tool_choice": NAMED, "response_format": SCHEMA, "logit_bias": {"5": 1}}),
    (ChatCompletionRequest, {**CHAT, "tool_choice": NAMED_CUSTOM, "stream": True, "stream_options": {}}),
    (
        ChatCompletionRequest,
        {
            **CHAT,
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [NAMED, NAMED_CUSTOM]},
            },
            "prediction": {"type": "content", "content": [{"type": "text", "text": "a"}]},
        },
    ),
    (
        ChatCompletionRequest,
        {"messages": MESSAGES, "functions": [FUNCTION["function"]], "function_call": {"name": "f"}, "metadata": {}},
    ),
    (ChatCompletionRequest, {"messages": MESSAGES, "structured_outputs": {"json": {"type": "object"}}}),
    (CompletionRequest, {"prompt": "a", "stream": True, "stream_options": {"include_usage": True}}),
    (CompletionRequest, {"prompt": "a", "response_format": SCHEMA}),
    (TokenizeRequest, CHAT),
    (DetokenizeRequest, {"tokens": [1]}),
    (UpdateChatRequest, {"metadata": {"a": "b"}}),
]


def objects(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object whose members have meanings, with the path of its members."""
    if isinstance(value, dict):
        yield path, value
        for name, inner in value.items():
            if name not in FREE:
                yield from objects(inner, f"{path}{name}.")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from objects(inner, f"{path}{index}.")


def classes(annotation: Any) -> set[type[WireModel]]:
    """The kinds of objects that may stand where this type does, and within them."""
    if not isinstance(annotation, type) or not issubclass(annotation, WireModel):
        return set().union(*map(classes, get_args(annotation)))
    fields = annotation.model_fields.values()
    return {annotation}.union(*(classes(field.annotation) for field in fields))


def kinds(model: WireModel) -> set[type[WireModel]]:
    """The kinds of the objects that a body holds."""
    inner = [value for name in type(model).model_fields for value in _listed(getattr(model, name))]
    return {type(model)}.union(*(kinds(value) for value in inner if isinstance(value, WireModel)))


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


REACHABLE = set().union(*(classes(model) for model, _ in BODIES))


def test_the_bodies_hold_every_kind_of_object_that_we_read() -> None:
    assert set().union(*(kinds(model.model_validate(body)) for model, body in BODIES)) == REACHABLE
    assert all(not list(unknown_fields(model.model_validate(body))) for model, body in BODIES)


@pytest.mark.parametrize("number", range(len(BODIES)))
def test_an_unknown_member_of_any_object_is_named(number: int) -> None:
    model, body = BODIES[number]
    for path, _ in objects(body):
        changed = copy.deepcopy(body)
        next(inner for other, inner in objects(changed) if other == path)["surprise"] = {"a": 1}
        # The older form of a choice is read as the newer one.
        shown = path.replace("function_call.", "function_call.function.") if path == "function_call." else path
        assert [field.path for field in unknown_fields(model.model_validate(changed))] == [f"{shown}surprise"]


FOREIGN: list[tuple[dict[str, Any], str]] = [
    ({"tools": [{**FUNCTION, "custom": CUSTOM["custom"]}]}, "tools.0.custom"),
    ({"tools": [{**CUSTOM, "function": FUNCTION["function"]}]}, "tools.0.function"),
    ({"tools": [FUNCTION], "tool_choice": {**NAMED, "type": "auto"}}, "tool_choice.function"),
    ({"tools": [FUNCTION], "tool_choice": {**NAMED, "custom": {"name": "c"}}}, "tool_choice.custom"),
    (
        {"tools": [FUNCTION], "tool_choice": {"type": "none", "allowed_tools": {"mode": "auto", "tools": [NAMED]}}},
        "tool_choice.allowed_tools",
    ),
    (
        {
            "tools": [FUNCTION],
            "tool_choice": {
                "type": "allowed_tools",
                "allowed_tools": {"mode": "auto", "tools": [{**NAMED, "custom": {"name": "f"}}]},
            },
        },
        "tool_choice.allowed_tools.tools.0.custom",
    ),
    ({"messages": [{"role": "user", "content": "a", "tool_calls": CALLS}]}, "messages.0.tool_calls"),
    ({"messages": [{"role": "user", "content": "a", "tool_call_id": "1"}]}, "messages.0.tool_call_id"),
    ({"messages": [{"role": "user", "content": "a", "refusal": "no"}]}, "messages.0.refusal"),
    (
        {"messages": [{"role": "assistant", "tool_calls": [{**CALLS[0], "custom": CALLS[1]["custom"]}]}]},
        "messages.0.tool_calls.0.custom",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "refusal": "b"}]}]},
        "messages.0.content.0.refusal",
    ),
    (
        {"prediction": {"type": "content", "content": [{"type": "text", "text": "a", "refusal": "b"}]}},
        "prediction.content.0.refusal",
    ),
]


@pytest.mark.parametrize(("fields", "path"), FOREIGN)
def test_a_member_of_another_kind_of_object_is_named(fields: dict[str, Any], path: str) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    [field] = unknown_fields(ChatCompletionRequest.model_validate(body))
    assert field.path == path
    assert str(field).startswith(f"field {path!r} has no effect with ")
    error = refused(ask(serve(strict_fields=True), "/v1/chat/completions", body))
    assert (error["param"], error["message"]) == (path, str(field))


def test_every_kind_of_object_with_variants_has_foreign_members_tried() -> None:
    with_variants = {model for model in REACHABLE if model.members_of}
    assert {name for model in with_variants for name in model.members_of} <= {
        *(path.rpartition(".")[2] for _, path in FOREIGN),
        *("text", "function_call", "reasoning", "reasoning_content", "parsed"),
    }


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "text", "json_schema": {"name": "x"}}}, "response_format.json_schema"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0"),
        ({"messages": [{"role": "user", "content": [{"type": "refusal", "text": "a"}]}]}, "messages.0.content.0"),
        (
            {"messages": [{"role": "assistant", "content": "a", "reasoning": "b", "reasoning_content": "c"}]},
            "messages.0.reasoning",
        ),
    ],
)
def test_an_object_that_contradicts_itself_is_refused(fields: dict[str, Any], param: str) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    assert refused(ask(serve(), "/v1/chat/completions", body))["param"] == param


@pytest.mark.parametrize("field", ["tools", "chat_template_kwargs", "reasoning_effort"])
def test_what_belongs_to_messages_is_refused_beside_a_prompt(field: str) -> None:
    value = {"tools": [FUNCTION], "chat_template_kwargs": {"a": 1}, "reasoning_effort": "low"}[field]
    assert refused(ask(serve(), "/tokenize", {"prompt": "a", field: value}))["param"] == field


def test_an_unknown_field_is_named_in_a_warning_with_a_suggestion() -> None:
    body = {"prompt": "a", "temprature": 1, "stream_options": {"include_usge": True}, "stream": True}
    answer = ask(serve(), "/v1/completions", body)
    assert answer.headers["x-nexttoken-warnings"] == (
        "unknown field 'temprature', did you mean 'temperature'?; "
        "unknown field 'stream_options.include_usge', did you mean 'include_usage'?"
    )
    assert "warnings" not in answer.text
    assert len(complete(serve(), prompt="a", temprature=1, include_warnings=True)["warnings"]) == 1
    chunks = stream(serve(), "/v1/chat/completions", temprature=1, include_warnings=True)
    assert [bool(chunk.get("warnings")) for chunk in chunks] == [True] + [False] * (len(chunks) - 1)


def test_strict_fields_refuse_an_unknown_field() -> None:
    answer = ask(serve(strict_fields=True), "/v1/chat/completions", {"messages": MESSAGES, "temprature": 1})
    assert refused(answer)["param"] == "temprature"


def test_a_message_that_a_client_has_parsed_goes_back_as_it_is() -> None:
    function = {"name": "get_weather", "arguments": '{"city": "Oslo"}', "parsed_arguments": {"city": "Oslo"}}
    call = {"id": "call_1", "type": "function", "function": function}
    turns = [
        {"role": "assistant", "content": '{"legs": 4}', "parsed": {"legs": 4}},
        {"role": "assistant", "content": None, "tool_calls": [call], "parsed": None},
        {"role": "tool", "tool_call_id": "call_1", "content": "clear"},
    ]
    assert ask(serve(strict_fields=True), "/v1/chat/completions", {"messages": MESSAGES + turns}).status_code == 200
