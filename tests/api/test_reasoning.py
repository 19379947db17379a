"""Thoughts through HTTP: what comes as reasoning, and how it is bounded."""

from typing import Any

import pytest

from model.batch import SamplingParams
from model.thinking import ThinkingBudget
from tests.api.serving import TOKENIZER, Served, ask, chat, refused, stream
from tests.api.tool_serving import CALL, PATH, THOUGHT, TOOLS, add_up, called, only, prompt_of, tool_server


def test_thoughts_come_under_both_names() -> None:
    message, reason = only(chat(tool_server(f"{THOUGHT}Yes.", "thinking", reasoning_parser="think")))
    assert message["content"] == "Yes."
    assert message["reasoning"] == message["reasoning_content"] == "Let me think."
    assert reason == "stop"
    streamed, _ = add_up(stream(tool_server(f"{THOUGHT}Yes.", "thinking"), PATH))
    assert (streamed["content"], streamed["reasoning"]) == ("Yes.", "Let me think.")


def test_thoughts_and_calls_come_in_one_answer() -> None:
    for message, reason in (
        only(chat(tool_server(THOUGHT + CALL, "thinking"), tools=TOOLS)),
        add_up(stream(tool_server(THOUGHT + CALL, "thinking"), PATH, tools=TOOLS)),
    ):
        assert message["reasoning"] == "Let me think."
        assert called(message) == [("weather", '{"town": "Köln"}')]
        assert not message["content"]
        assert reason == "tool_calls"


def test_thoughts_are_counted() -> None:
    usage = chat(tool_server(f"{THOUGHT}Yes.", "thinking"))["usage"]
    thought = usage["completion_tokens_details"]["reasoning_tokens"]
    assert abs(thought - len(THOUGHT)) <= 4
    for template in ("hermes", "thinking"):
        answer = chat(tool_server("Yes.", template))
        assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0


def test_a_form_that_leaves_no_room_for_thoughts_has_none() -> None:
    message, _ = only(chat(tool_server("<think>a", "thinking"), guided_regex=".*"))
    assert message["content"] == "<think>a"
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    message, _ = only(chat(tool_server(THOUGHT + "{}", "thinking"), response_format=schema))
    assert (message["reasoning"], message["content"]) == ("Let me think.", "{}")


def test_effort_switches_thinking_on_and_off() -> None:
    served = tool_server("Hm.</think>Yes.", "thinking")
    message, _ = only(chat(served, reasoning_effort="high"))
    assert (message["reasoning"], message["content"]) == ("Hm.", "Yes.")
    assert prompt_of(served, reasoning_effort="low").endswith("<think>\n")
    for off in ({"reasoning_effort": "none"}, {"chat_template_kwargs": {"enable_thinking": False}}, {}):
        assert not prompt_of(served, **off).endswith("<think>\n")
    own = {"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": False}}
    assert not prompt_of(served, **own).endswith("<think>\n")


def test_effort_that_the_template_cannot_be_told_is_refused() -> None:
    body = {"messages": [{"role": "user", "content": "hi"}]}
    served = tool_server("Hi", "plain")
    assert ask(served, PATH, {**body, "reasoning_effort": "medium"}).status_code == 200
    assert refused(ask(served, PATH, {**body, "reasoning_effort": "none"}))["param"] == "reasoning_effort"


def budget_of(served: Served, **fields: Any) -> ThinkingBudget | None:
    """What the engine is told of thoughts."""
    chat(served, **fields)
    params = served.engine.calls[-1][1]
    assert isinstance(params, SamplingParams)
    assert params.thinking is None or params.grammar is not None
    return params.thinking


@pytest.mark.parametrize(
    ("fields", "most"),
    [
        ({}, None),
        ({"reasoning_effort": "none"}, 0),
        ({"reasoning_effort": "minimal"}, 10),
        ({"reasoning_effort": "low"}, 20),
        ({"reasoning_effort": "medium"}, 50),
        ({"reasoning_effort": "high"}, 80),
        ({"reasoning_effort": "xhigh"}, 90),
        ({"reasoning_effort": "max"}, 95),
        ({"thinking_token_budget": 7}, 7),
        ({"thinking_token_budget": 0, "reasoning_effort": "max"}, 0),
        ({"thinking_token_budget": 100}, None),
        ({"thinking_token_budget": 7, "tools": TOOLS}, 7),
        ({"thinking_token_budget": 7, "tools": TOOLS, "tool_choice": "required"}, 7),
        ({"thinking_token_budget": 7, "response_format": {"type": "json_object"}}, 7),
        ({"thinking_token_budget": 7, "guided_regex": "a+"}, None),
    ],
)
def test_an_effort_or_a_number_bounds_the_thoughts(fields: dict[str, Any], most: int | None) -> None:
    served = tool_server("Hm.</think>Yes.", "plain", reasoning_parser="think")
    budget = budget_of(served, max_tokens=100, **fields)
    assert (budget and budget.max_tokens) == most
    assert budget is None or TOKENIZER.decode(budget.closing_ids) == budget.closing.decode() == "</think>"


def test_a_budget_knows_whether_the_prompt_opens_the_thoughts() -> None:
    served = tool_server("Hm.</think>Yes.", "thinking")
    for effort, is_open in (("high", True), ("none", None)):
        budget = budget_of(served, reasoning_effort=effort)
        assert (budget and budget.is_open) == is_open
    budget = budget_of(served, thinking_token_budget=0)
    assert budget is not None
    assert not budget.is_open
    budget = budget_of(served, reasoning_effort="none", chat_template_kwargs={"enable_thinking": True})
    assert budget is not None
    assert (budget.is_open, budget.max_tokens) == (True, 0)


@pytest.mark.parametrize(
    ("template", "fields", "params"),
    [
        ("plain", {"thinking_token_budget": 3}, ["thinking_token_budget"]),
        ("thinking", {"thinking_token_budget": -1}, ["thinking_token_budget"]),
        ("thinking", {"thinking_token_budget": 3, "ignore_eos": True}, ["ignore_eos", "thinking_token_budget"]),
        ("thinking", {"reasoning_effort": "low", "ignore_eos": True}, ["ignore_eos", "reasoning_effort"]),
        ("thinking", {"bad_words": ["x"], "ignore_eos": True}, ["ignore_eos", "bad_words"]),
        ("thinking", {"reasoning_effort": "low", "allowed_token_ids": [65]}, ["allowed_token_ids", "reasoning_effort"]),
        ("thinking", {"guided_regex": "a", "allowed_token_ids": [65]}, ["allowed_token_ids", "guided_regex"]),
    ],
)
def test_a_budget_that_can_not_be_kept_is_refused_with_the_field_beside_it(
    template: str, fields: dict[str, Any], params: list[str]
) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    error = refused(ask(tool_server("x", template), PATH, body))
    assert error["param"] == params[0]
    assert len(params) == 1 or all(param in error["message"] for param in params)
