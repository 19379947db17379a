"""Texts of a form from a real server: streamed or not, beside others, and through the death of the worker."""

import asyncio
import json
import os
import re
import signal
from pathlib import Path

import httpx
import jsonschema
import pytest

from tests.e2e.server_process import ServerProcess, events, running_server

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}
FORMS = {
    "schema": {"guided_json": SCHEMA},
    "regex": {"guided_regex": "[A-Z][a-z]{2,9}, [0-9]{1,3}"},
    "choice": {"guided_choice": ["yes", "no", "möglich"]},
    "grammar": {"guided_grammar": 'root ::= "SELECT " name " FROM " name\nname ::= [a-z]{1,9}'},
    "object": {"structured_outputs": {"json_object": True}, "max_tokens": 40},
}


def fits(name: str, text: str) -> bool:
    match name:
        case "schema":
            jsonschema.validate(json.loads(text), SCHEMA)
            return True
        case "regex":
            return re.fullmatch("[A-Z][a-z]{2,9}, [0-9]{1,3}", text) is not None
        case "choice":
            return text in ("yes", "no", "möglich")
        case "grammar":
            return re.fullmatch("SELECT [a-z]{1,9} FROM [a-z]{1,9}", text) is not None
        case _:
            return isinstance(json.loads(text), dict)


def streamed(server: ServerProcess, path: str, body: dict) -> tuple[str, str, int]:
    """Text, finish_reason, and how many ends came."""
    text, reasons = "", []
    with httpx.stream("POST", server.url + path, json={**body, "stream": True}, timeout=60) as response:
        assert response.status_code == 200
        for event in events(response.iter_lines()):
            for choice in event["choices"]:
                text += choice["text"] if "text" in choice else choice["delta"].get("content") or ""
                reasons += [choice["finish_reason"]] if choice["finish_reason"] else []
    return text, reasons[0], len(reasons)


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("temperature", [0, 1.8])
def test_streamed_and_whole_texts_are_equal_and_of_their_form(
    server: ServerProcess, name: str, temperature: float
) -> None:
    for seed in range(3):
        body = {"prompt": f"Once {seed}", "max_tokens": 150, "temperature": temperature, "seed": seed, **FORMS[name]}
        choice = server.post("/v1/completions", body).json()["choices"][0]
        assert streamed(server, "/v1/completions", body) == (choice["text"], choice["finish_reason"], 1)
        assert choice["finish_reason"] == "length" or fits(name, choice["text"])


def test_chat_answers_in_the_wanted_schema(server: ServerProcess) -> None:
    body = {
        "messages": [{"role": "user", "content": "Who are you?"}],
        "response_format": FORMAT,
        "max_tokens": 200,
        "n": 3,
        "temperature": 1.5,
        "seed": 4,
        "logprobs": True,
        "top_logprobs": 5,
    }
    answer = server.post("/v1/chat/completions", body).json()
    complete = [choice for choice in answer["choices"] if choice["finish_reason"] == "stop"]
    assert complete
    for choice in complete:
        jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)
        numbers = [entry["logprob"] for entry in choice["logprobs"]["content"]]
        assert all(-9999 <= number <= 0 for number in numbers), "in12: finite, of the distribution without the mask"


@pytest.mark.parametrize(
    "extra", [{}, {"min_tokens": 5}, {"ignore_eos": True}, {"temperature": 2, "logit_bias": {"3": 100}}]
)
def test_gr09_a_grammar_of_one_text_ends_once_with_stop(server: ServerProcess, extra: dict) -> None:
    body = {"prompt": "x", "guided_regex": "a", "max_tokens": 50, **extra}
    assert streamed(server, "/v1/completions", body) == ("a", "stop", 1)


def test_texts_beside_texts_of_a_form_are_what_they_are_alone(server: ServerProcess) -> None:
    plain = [
        {"prompt": f"Once upon a time {i}", "max_tokens": 60, "temperature": i % 2, "seed": i, "ignore_eos": True}
        for i in range(6)
    ]
    alone = [server.post("/v1/completions", body).json()["choices"][0]["text"] for body in plain]
    formed = [
        {"prompt": f"{i}", "max_tokens": 100, "seed": i, **form}
        for i, form in enumerate([*FORMS.values(), *FORMS.values()])
    ]

    async def together() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.url, timeout=60) as http:
            return await asyncio.gather(*(http.post("/v1/completions", json=body) for body in [*plain, *formed]))

    answers = asyncio.run(together())
    assert all(answer.status_code == 200 for answer in answers)
    assert [answer.json()["choices"][0]["text"] for answer in answers[: len(plain)]] == alone
    server.wait_until(server.is_idle)


def test_gr06_a_grammar_that_kills_its_compiler_is_refused_and_the_server_goes_on(server: ServerProcess) -> None:
    definitions = {
        f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{(i + 1) % 400}"}, {"$ref": f"#/$defs/d{i * 7 % 400}"}]}
        for i in range(400)
    }
    restarts = server.metric("worker_restarts_total")
    answer = server.post(
        "/v1/completions", {"prompt": "x", "guided_json": {"$defs": definitions, "$ref": "#/$defs/d0"}}
    )
    assert answer.status_code in (200, 400)
    assert server.complete("x", guided_choice=["yes"]) == "yes"
    assert server.metric("worker_restarts_total") == restarts


def test_texts_of_a_form_survive_the_death_of_the_worker(tmp_path: Path) -> None:
    body = {"prompt": "Once", "max_tokens": 600, "temperature": 1, "seed": 3, "guided_regex": "([a-z]{1,8} ){80}\\."}
    with running_server(tmp_path, "--dtype", "float32") as server:
        undisturbed = streamed(server, "/v1/completions", body)
        text, num_chunks = "", 0
        with httpx.stream(
            "POST", server.url + "/v1/completions", json={**body, "stream": True}, timeout=60
        ) as response:
            for event in events(response.iter_lines()):
                text += "".join(choice["text"] for choice in event["choices"])
                num_chunks += 1
                if num_chunks == 10:
                    os.kill(server.worker_pid, signal.SIGKILL)
        assert text == undisturbed[0]
        assert server.metric("worker_restarts_total") == 1
