"""Custom tools through HTTP: the model is told of functions of one string, and the client gets the text."""

import json
from typing import Any

import openai
import pytest

from model.batch import SamplingParams
from tests.api.serving import ask, chat, refused, stream
from tests.api.test_openai_schemas import CHAT
from tests.api.tool_serving import NOW, PATH, TOOLS, called, only, prompt_of, tool_server

CODE: dict[str, Any] = {"type": "custom", "custom": {"name": "run", "description": "Runs Python."}}
TIME: dict[str, Any] = {
    "type": "custom",
    "custom": {
        "name": "at",
        "format": {"type": "grammar", "grammar": {"syntax": "regex", "definition": "[0-2][0-9]:[0-5][0-9]"}},
    },
}
INPUT = 'print("Grüße, 🌍")\n'
CALL = f"<tool_call>\n{json.dumps({'name': 'run', 'arguments': {'input': INPUT}})}\n</tool_call>"
NAMED = {"type": "custom", "custom": {"name": "run"}}


def test_a_call_comes_with_its_input_as_text() -> None:
    message, reason = only(chat(tool_server(f"So: {CALL}{NOW}"), tools=[CODE, *TOOLS]))
    first, second = message["tool_calls"]
    assert (first["type"], first["custom"]) == ("custom", {"name": "run", "input": INPUT})
    assert "function" not in first
    assert called({"tool_calls": [second]}) == [("now", "{}")]
    assert reason == "tool_calls"


def test_a_stream_tells_the_name_first_and_then_the_input_bit_by_bit() -> None:
    chunks = stream(tool_server(f"{NOW}{CALL}"), PATH, tools=[CODE, *TOOLS])
    parts = [part for chunk in chunks for part in chunk["choices"][0]["delta"].get("tool_calls", [])]
    begin, *rest = [part for part in parts if part["index"] == 1]
    assert (begin["type"], begin["custom"]) == ("custom", {"name": "run", "input": ""})
    assert begin["id"].startswith("call_")
    assert all(set(part) == {"index", "custom"} and set(part["custom"]) == {"input"} for part in rest)
    assert "".join(part["custom"]["input"] for part in rest) == INPUT
    assert len(rest) > 10
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_the_model_is_told_of_a_function_of_one_string() -> None:
    prompt = prompt_of(tool_server("x"), tools=[CODE, TIME])
    assert '"name": "run", "description": "Runs Python.", "parameters"' in prompt
    assert '"properties": {"input": {"type": "string"}}, "required": ["input"]' in prompt
    assert "Matches the regular expression [0-2][0-9]:[0-5][0-9]" in prompt


def test_calls_and_results_go_back_into_the_prompt() -> None:
    message, _ = only(chat(tool_server(CALL), tools=[CODE]))
    messages = [
        {"role": "user", "content": "Go"},
        message,
        {"role": "tool", "tool_call_id": message["tool_calls"][0]["id"], "content": "done"},
    ]
    prompt = prompt_of(tool_server("x"), messages=messages, tools=[CODE])
    assert f"<tool_call>run:{ {'input': INPUT} }:" in prompt
    assert json.dumps({"input": INPUT}, ensure_ascii=False) in prompt_of(
        tool_server("x", "plain"), messages=messages, tools=[CODE]
    )


@pytest.mark.parametrize(
    "choice", [NAMED, {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [NAMED]}}]
)
def test_a_choice_names_a_custom_tool(choice: dict[str, Any]) -> None:
    served = tool_server(CALL)
    message, _ = only(chat(served, tools=[CODE, TIME, *TOOLS], tool_choice=choice))
    assert message["tool_calls"][0]["custom"]["name"] == "run"
    params = served.engine.calls[-1][1]
    assert isinstance(params, SamplingParams)
    assert params.grammar is not None
    assert "run" in params.grammar.text
    assert "weather" not in params.grammar.text


def test_the_grammar_of_an_input_is_part_of_the_answers() -> None:
    served = tool_server("x")
    chat(served, tools=[TIME], tool_choice="required")
    params = served.engine.calls[-1][1]
    assert isinstance(params, SamplingParams)
    assert params.grammar is not None
    assert "^(?:[0-2][0-9]:[0-5][0-9])$" in params.grammar.text


SUM: dict[str, Any] = {
    "type": "custom",
    "custom": {
        "name": "add",
        "format": {
            "type": "grammar",
            "grammar": {"syntax": "lark", "definition": 'start: /[0-9]+/ "+" /[0-9]+/ "\\n"'},
        },
    },
}


@pytest.mark.parametrize("template", ["hermes", "mistral", "plain", "pythonic"])
@pytest.mark.parametrize("choice", ["auto", "required"])
def test_a_lark_grammar_is_part_of_the_answers_and_told_to_the_model(template: str, choice: str) -> None:
    parsers = {"tool_call_parser": template} if template == "pythonic" else {}
    served = tool_server("x", "hermes" if parsers else template, **parsers)
    assert "Follows the Lark grammar\\nstart: /[0-9]+/" in prompt_of(served, tools=[SUM], tool_choice=choice)
    params = served.engine.calls[-1][1]
    assert isinstance(params, SamplingParams)
    assert params.grammar is not None
    assert "%lark {\nstart: /[0-9]+/" in params.grammar.text


def test_a_fault_in_a_lark_grammar_is_named_with_its_place() -> None:
    body = {
        "messages": [{"role": "user", "content": "hi"}],
        **grammar(syntax="lark", definition='start: "a"\n  | other'),
    }
    for choice in ("auto", "required"):
        message = refused(ask(tool_server("x"), PATH, {**body, "tool_choice": choice}))["message"]
        assert message.startswith("in line 1, column 8: unknown name"), message


def custom(**fields: Any) -> dict[str, Any]:
    return {"tools": [{"type": "custom", "custom": {"name": "x", **fields}}]}


def grammar(**fields: Any) -> dict[str, Any]:
    return custom(format={"type": "grammar", "grammar": fields})


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom"}]}, "tools.0.custom"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools.0.custom.name"),
        ({"tools": [{"type": "custom", "custom": {"name": "a b"}}]}, "tools.0.custom.name"),
        ({"tools": [CODE, CODE]}, "tools.1.custom.name"),
        (custom(format={"type": "json"}), "tools.0.custom.format.type"),
        (custom(format={"type": "grammar"}), "tools.0.custom.format.grammar"),
        (grammar(syntax="regex"), "tools.0.custom.format.grammar.definition"),
        (grammar(syntax="gbnf", definition="x"), "tools.0.custom.format.grammar.syntax"),
        (grammar(syntax="lark"), "tools.0.custom.format.grammar.definition"),
        (grammar(syntax="lark", definition='root ::= "a"'), "tools.0.custom.format.grammar.definition"),
        (grammar(syntax="lark", definition="start: %json {}"), "tools.0.custom.format.grammar.definition"),
        (grammar(syntax="lark", definition='start: "a" }\nb: %lark {'), "tools.0.custom.format.grammar.definition"),
        (grammar(syntax="lark", definition=f"start: /{'[^a]' * 8000}/"), "tools.0.custom.format.grammar.definition"),
        (grammar(syntax="regex", definition="a)|(?:b"), "tools.0.custom.format.grammar.definition"),
        (grammar(syntax="regex", definition="a("), "tools.0.custom.format.grammar.definition"),
        ({"tools": [CODE], "tool_choice": {"type": "custom"}}, "tool_choice"),
        ({"tools": [CODE], "tool_choice": {"type": "custom", "custom": {"name": "nope"}}}, "tool_choice"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "type": "custom"}]}]},
            "messages.0.tool_calls.0.custom",
        ),
    ],
)
def test_what_contradicts_itself_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    assert refused(ask(tool_server("x"), PATH, body))["param"] == param


def test_answers_are_what_openais_schemas_and_client_know() -> None:
    answer = chat(tool_server(CALL), tools=[CODE])
    CHAT.validate(answer)
    [call] = openai.types.chat.ChatCompletion.model_validate(answer).choices[0].message.tool_calls or []
    assert isinstance(call, openai.types.chat.ChatCompletionMessageCustomToolCall)
    assert call.custom.input == INPUT
