"""Bodies drawn from our own OpenAPI document, and bodies that break it, are answered in OpenAI's shapes."""

import json
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.core import NOT_SET

from tests.api.serving import ask, events, serve, strict_json
from tests.api.test_openai_schemas import CHAT, CHUNK, COMPLETION, ERROR, as_whole

PATHS = ("/v1/completions", "/v1/chat/completions", "/tokenize", "/detokenize")
DOCUMENT = schemathesis.openapi.from_dict(ask(serve(), "/openapi.json", None).json())


def as_bytes(body: Any) -> bytes:
    """A case's body as it is sent; negative cases may have none, or one that is no JSON."""
    if body is NOT_SET:
        return b""
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def check_answer(path: str, text: str, is_stream: bool) -> None:
    chunks = events(text) if is_stream else [strict_json(text)]
    assert not any("error" in chunk for chunk in chunks)
    for chunk in chunks:
        if path == "/v1/completions":
            COMPLETION.validate(as_whole(chunk))
        elif path == "/v1/chat/completions":
            (CHUNK if is_stream else CHAT).validate(chunk)


def send_bodies(path: str, mode: GenerationMode, num_examples: int) -> None:
    served = serve("abcü世\n")
    strategy = DOCUMENT[path]["POST"].as_strategy(generation_mode=mode)

    @settings(max_examples=num_examples, deadline=None, suppress_health_check=list(HealthCheck))
    @given(strategy)
    def check(case: Case) -> None:
        answer = ask(served, path, as_bytes(case.body), **{"content-type": "application/json"})
        if answer.status_code == 200:
            check_answer(path, answer.text, answer.headers["content-type"].startswith("text/event-stream"))
        else:
            assert answer.status_code in (400, 404, 429), answer.text
            ERROR.validate(strict_json(answer.content))
        assert not served.engine.in_flight

    check()


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("path", PATHS)
def test_any_body_has_an_answer_in_openais_shape(path: str, mode: GenerationMode) -> None:
    send_bodies(path, mode, 20)


@pytest.mark.slow
@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("path", PATHS)
def test_any_of_many_bodies_has_an_answer_in_openais_shape(path: str, mode: GenerationMode) -> None:
    send_bodies(path, mode, 300)
