"""Whatever a request combines, its stream adds up to its whole answer, token for token, on the bundled model."""

from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.e2e.server_process import ServerProcess, events

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "maximum": 99, "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}
CODE = {"type": "grammar", "grammar": {"syntax": "regex", "definition": '"[a-zü]{1,9}"\n'}}
TOOLS = [
    {"type": "function", "function": {"name": "look_up", "parameters": SCHEMA}},
    {"type": "custom", "custom": {"name": "run", "format": CODE}},
]
FORM = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA}}
SHARED = {
    "stop": st.sampled_from([" the", ["e", '"'], ["</think>"], "\n"]),
    "include_stop_str_in_output": st.booleans(),
    "n": st.integers(1, 3),
    "max_tokens": st.integers(1, 48),
    "min_tokens": st.integers(0, 4),
    "response_format": st.sampled_from([FORM, {"type": "json_object"}, {"type": "text"}]),
    "guided_regex": st.just("[A-Z][a-z ]{3,20}"),
    "return_token_ids": st.booleans(),
    "skip_special_tokens": st.booleans(),
    "ignore_eos": st.booleans(),
    "repetition_penalty": st.just(1.3),
    "logit_bias": st.just({"5": 3, "300": -100}),
    "stream_options": st.fixed_dictionaries({}, optional={"include_obfuscation": st.booleans()}),
}
COMPLETION = st.fixed_dictionaries(
    {"prompt": st.sampled_from(["Once", "Grüße, 世", [5, 60, 300], ["The cat", "A"]])},
    optional=SHARED | {"echo": st.booleans(), "logprobs": st.integers(0, 2)},
)
CHAT = st.fixed_dictionaries(
    {
        "messages": st.sampled_from(
            [[{"role": "user", "content": "What is 2 + 3?"}], [{"role": "user", "content": "Hi"}]]
        )
    },
    optional=SHARED
    | {
        "logprobs": st.booleans(),
        "tools": st.sampled_from([TOOLS, TOOLS[:1], TOOLS[1:]]),
        "tool_choice": st.sampled_from(["auto", "none", "required"]),
        "parallel_tool_calls": st.booleans(),
        "thinking_token_budget": st.integers(0, 9),
        "reasoning_effort": st.sampled_from(["low", "max"]),
    },
)
REQUESTS = st.tuples(st.just("/v1/completions"), COMPLETION) | st.tuples(st.just("/v1/chat/completions"), CHAT)


def add_up(choices: list[dict[str, Any]]) -> dict[str, Any]:
    """The chunks of one choice as a client puts them together, in the form of a whole one."""
    whole: dict[str, Any] = {"finish_reason": None}
    for choice in choices:
        assert whole["finish_reason"] is None, "nothing comes after the end"
        whole["finish_reason"] = choice["finish_reason"]
        for name in ("text", "token_ids", "prompt_token_ids"):
            if name in choice:
                whole[name] = whole[name] + choice[name] if name in whole else choice[name]
        for name, values in (choice["logprobs"] or {}).items():
            if values is not None:
                whole.setdefault("logprobs", {}).setdefault(name, []).extend(values)
        for name in ("content", "reasoning"):
            whole[name] = whole.get(name, "") + choice.get("delta", {}).get(name, "")
        for part in choice.get("delta", {}).get("tool_calls", []):
            _add_call(whole.setdefault("calls", []), part)
    return whole


def _add_call(calls: list[dict[str, str]], part: dict[str, Any]) -> None:
    if "id" in part:
        assert part["index"] == len(calls)
        calls.append({"type": part["type"], "name": part[part["type"]]["name"], "text": ""})
    call = calls[part["index"]]
    call["text"] += part[call["type"]]["arguments" if call["type"] == "function" else "input"]


def as_added(choice: dict[str, Any]) -> dict[str, Any]:
    """A choice of a whole answer, as `add_up` gives it."""
    message = choice.get("message", {})
    whole = {"finish_reason": choice["finish_reason"]}
    whole |= {name: choice[name] for name in ("text", "token_ids", "prompt_token_ids") if name in choice}
    whole |= {name: message.get(name) or "" for name in ("content", "reasoning")}
    if choice["logprobs"] is not None:
        whole["logprobs"] = {name: values for name, values in choice["logprobs"].items() if values is not None}
    calls = [(call["type"], call[call["type"]]) for call in message.get("tool_calls", [])]
    if calls:
        whole["calls"] = [
            {"type": kind, "name": call["name"], "text": call.get("arguments", call.get("input"))}
            for kind, call in calls
        ]
    return whole


def check(server: ServerProcess, path: str, body: dict[str, Any]) -> None:
    body = {"temperature": 0, "max_tokens": 16, **body}
    whole = server.post(path, {name: value for name, value in body.items() if name != "stream_options"})
    options = {"include_usage": True, **body.get("stream_options", {})}
    streamed = {**body, "stream": True, "stream_options": options}
    with httpx.stream("POST", server.url + path, json=streamed, timeout=60) as response:
        assert response.status_code == whole.status_code
        if whole.status_code != 200:
            assert whole.status_code == 400
            response.read()
            assert response.json() == whole.json()
            return
        *chunks, last = events(response.iter_lines())
    assert not any("error" in chunk for chunk in chunks)
    answer = whole.json()
    assert last["choices"] == []
    for name in ("prompt_tokens", "completion_tokens", "completion_tokens_details"):
        assert last["usage"][name] == answer["usage"][name]
    of_choice: dict[int, list[dict[str, Any]]] = {choice["index"]: [] for choice in answer["choices"]}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        of_choice[choice["index"]].append(choice)
    for choice in answer["choices"]:
        assert add_up(of_choice[choice["index"]]) == as_added(choice)


def check_many(server: ServerProcess, num_examples: int) -> None:
    @settings(max_examples=num_examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(REQUESTS)
    def run(request: tuple[str, dict[str, Any]]) -> None:
        check(server, *request)

    run()


def test_any_combination_of_fields_streams_what_it_answers(thinker: ServerProcess) -> None:
    check_many(thinker, 25)


@pytest.mark.slow
def test_any_of_many_combinations_of_fields_streams_what_it_answers(thinker: ServerProcess) -> None:
    check_many(thinker, 400)
