"""Thinking budgets with the real engine: the bundled model, told that it thinks, is made to stop."""

from typing import Any

import pytest

from tests.e2e.server_process import ServerProcess

OPEN = [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "<think>"}]
SCHEMA = {
    "type": "object",
    "properties": {"x": {"enum": [1, 2]}},
    "required": ["x"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]
FORM = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


def answers(server: ServerProcess, **fields: Any) -> dict[str, Any]:
    body = {
        "messages": OPEN,
        "continue_final_message": True,
        "max_tokens": 60,
        "temperature": 0,
        "min_tokens": 40,
        **fields,
    }
    response = server.post("/v1/chat/completions", body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


@pytest.mark.parametrize("budget", [0, 1, 10])
def test_the_answer_goes_on_after_thoughts_that_were_ended(thinker: ServerProcess, budget: int) -> None:
    free, bounded = answers(thinker), answers(thinker, thinking_token_budget=budget)
    assert free["choices"][0]["message"]["content"] is None
    for choice in answers(thinker, thinking_token_budget=budget, n=2, temperature=1, seed=1)["choices"]:
        assert choice["message"]["content"]
    message = bounded["choices"][0]["message"]
    assert message["content"]
    assert free["choices"][0]["message"]["reasoning"].startswith(message.get("reasoning", ""))
    num_reasoning = bounded["usage"]["completion_tokens_details"]["reasoning_tokens"]
    num_of_tag = answers(thinker, thinking_token_budget=0)["usage"]["completion_tokens_details"]["reasoning_tokens"]
    assert num_reasoning == budget + num_of_tag


def test_calls_and_forms_come_after_thoughts_that_were_ended(thinker: ServerProcess) -> None:
    fields = {"thinking_token_budget": 5, "min_tokens": 0, "max_tokens": 80}
    [choice] = answers(thinker, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, **fields)["choices"]
    assert choice["finish_reason"] == "tool_calls"
    [choice] = answers(thinker, response_format=FORM, **fields)["choices"]
    assert choice["message"]["content"].replace(" ", "").replace("\n", "") in ('{"x":1}', '{"x":2}')
    assert choice["message"]["reasoning"]
    assert answers(thinker, reasoning_effort="low", tools=TOOLS, **fields)["choices"][0]["message"]["reasoning"]
