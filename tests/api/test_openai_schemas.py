"""Answers and chunks fit the schemas of OpenAI's own API document, for random requests."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from tests.api.serving import ask, events, serve, strict_json

DOCUMENT = json.loads((Path(__file__).parent / "openai_schemas.json").read_text())
SCHEMAS = DOCUMENT["components"]["schemas"]


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", **_null_allowed(DOCUMENT)})


def _null_allowed(schema: Any) -> Any:
    """OpenAPI 3.0's `nullable`, which the document still uses in places, as JSON Schema says it."""
    if isinstance(schema, list):
        return [_null_allowed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    plain = {key: _null_allowed(value) for key, value in schema.items() if key != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if schema.get("nullable") is True else plain


COMPLETION, CHAT, CHUNK, ERROR, MODELS = (
    validator(name)
    for name in (
        "CreateCompletionResponse",
        "CreateChatCompletionResponse",
        "CreateChatCompletionStreamResponse",
        "ErrorResponse",
        "ListModelsResponse",
    )
)


def as_whole(completion: dict[str, Any]) -> dict[str, Any]:
    """A completion as the document has it, which knows neither that a chunk has no end yet nor that the first token of
    an echoed prompt has no log-probability; OpenAI's own server answers with null in both places."""
    for choice in completion["choices"]:
        choice["finish_reason"] = choice["finish_reason"] or "stop"
        for name, nothing in (("token_logprobs", 0.0), ("top_logprobs", {})):
            if choice["logprobs"]:
                choice["logprobs"][name] = [nothing if value is None else value for value in choice["logprobs"][name]]
    return {key: value for key, value in completion.items() if value is not None}


SHARED = {
    "n": st.integers(1, 3),
    "max_tokens": st.integers(1, 30),
    "stop": st.sampled_from(["b", ["ü", "世"], "never"]),
    "temperature": st.sampled_from([0, 1, 2.0]),
    "top_p": st.sampled_from([0, 1e-10, 1]),
    "top_k": st.sampled_from([-1, 1, 259]),
    "logit_bias": st.just({"5": -100}),
    "seed": st.integers(-(2**63), 2**63 - 1),
    "stop_token_ids": st.just([64]),
    "skip_special_tokens": st.booleans(),
    "stream": st.booleans(),
    "include_warnings": st.booleans(),
    "unknown": st.none() | st.integers(),
    "ignore_eos": st.booleans(),
}
COMPLETIONS_ONLY = {
    "prompt": st.sampled_from(["hi", ["a", "ü"], [1, 2], [[3], [4, 5]]]),
    "echo": st.booleans(),
    "logprobs": st.integers(0, 20),
    "best_of": st.integers(1, 4),
    "max_tokens": st.integers(0, 30),
}
CHAT_ONLY = {"logprobs": st.booleans(), "top_logprobs": st.integers(0, 20), "max_completion_tokens": st.integers(1, 5)}


@pytest.mark.parametrize("kind", ["completions", "chat"])
def test_every_answer_fits_openais_schema(kind: str) -> None:
    served = serve("abcü世\n" * 4)
    fields = SHARED | (COMPLETIONS_ONLY if kind == "completions" else CHAT_ONLY)
    required = {} if kind == "completions" else {"messages": st.just([{"role": "user", "content": "hi"}])}

    @settings(max_examples=150, deadline=None)
    @given(st.fixed_dictionaries(required, optional=fields), st.booleans())
    def check(body: dict[str, Any], include_usage: bool) -> None:
        if body.get("stream"):
            body["stream_options"] = {"include_usage": include_usage}
        answer = ask(served, "/v1/completions" if kind == "completions" else "/v1/chat/completions", body)
        if answer.status_code != 200:
            assert answer.status_code == 400, answer.text
            ERROR.validate(strict_json(answer.content))
        elif kind == "completions":
            for chunk in events(answer.text) if body.get("stream") else [strict_json(answer.content)]:
                COMPLETION.validate(as_whole(chunk))
        elif body.get("stream"):
            for chunk in events(answer.text):
                CHUNK.validate(chunk)
        else:
            CHAT.validate(strict_json(answer.content))
        assert not served.engine.in_flight

    check()


def test_models_and_errors_fit_openais_schema() -> None:
    MODELS.validate(ask(serve(), "/v1/models", None).json())
    for path, body in (("/x", None), ("/v1/models", {}), ("/v1/completions", {}), ("/v1/completions", {"n": 0})):
        answer = ask(serve(), path, body)
        if answer.status_code != 200:
            ERROR.validate(answer.json())
