"""What a request would cost is known before it is sent, and is what it then costs."""

from typing import Any

import pytest

from tests.api.serving import Served, ask, chat, complete, refused, serve
from tests.api.test_models import TOOL, serve_like
from tests.fakes import TEMPLATE, ScriptedEngine

MESSAGES = [{"role": "user", "content": "hi"}]


def cost(served: Served, **body: Any) -> Any:
    answer = ask(served, "/tokenize", body)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("body", [{"prompt": "abc"}, {"messages": MESSAGES}])
@pytest.mark.parametrize("salt", [None, "s"])
def test_counts_are_those_of_the_request_itself(body: dict[str, Any], salt: str | None) -> None:
    served = serve("ab")
    body = body | {"cache_salt": salt}
    send = complete if "prompt" in body else chat
    for _ in range(2):
        asked = cost(served, **body)
        usage = send(served, **body)["usage"]
        assert asked["count"] == usage["prompt_tokens"]
        assert asked["cached_tokens"] == usage["prompt_tokens_details"]["cached_tokens"]
    assert asked["cached_tokens"] > 0
    assert cost(served, **body | {"cache_salt": "other"})["cached_tokens"] == 0


def test_keys_see_their_own_cache_alone() -> None:
    served = serve(api_key=("k1", "k2"))
    ask(served, "/v1/completions", {"prompt": "abc"}, authorization="Bearer k1")
    found = [ask(served, "/tokenize", {"prompt": "abc"}, authorization=f"Bearer {key}").json() for key in ("k1", "k2")]
    assert [one["cached_tokens"] for one in found] == [3, 0]


@pytest.mark.parametrize("max_tokens", [None, 1, 60, 61, 1000])
@pytest.mark.parametrize("kind", ["prompt", "messages"])
def test_a_prompt_fits_if_its_request_is_not_refused(kind: str, max_tokens: int | None) -> None:
    served = serve("a", max_model_len=64)
    body: dict[str, Any] = {"prompt": "abc"} if kind == "prompt" else {"messages": MESSAGES}
    path = "/v1/completions" if kind == "prompt" else "/v1/chat/completions"
    asked = cost(served, **body, max_tokens=max_tokens)
    answer = ask(served, path, body | {"max_tokens": max_tokens})
    assert asked["fits"] == (answer.status_code == 200)
    assert asked["max_tokens"] == max_tokens or max_tokens is None
    if max_tokens is None:
        assert asked["max_tokens"] == min(16, 60) if kind == "prompt" else 64 - asked["count"]


def test_a_full_context_leaves_no_room() -> None:
    served = serve("a", max_model_len=32)
    assert not cost(served, prompt="a" * 31)["fits"], "31 letters and the beginning-of-sequence token"
    assert cost(served, prompt="a" * 30)["fits"]


def test_the_time_to_the_first_token_is_known_once_there_was_one() -> None:
    served = serve("a")
    assert cost(served, prompt="abc")["expected_ttft_s"] is None
    complete(served, prompt="abc")
    first = cost(served, prompt="xyz")["expected_ttft_s"]
    assert 0 < first < 60


def test_cached_tokens_are_null_when_the_worker_has_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    async def busy(*_: object) -> None:
        return None

    monkeypatch.setattr(ScriptedEngine, "num_cached", busy)
    assert cost(serve(), prompt="abc")["cached_tokens"] is None


def test_fields_that_contradict_each_other_are_refused() -> None:
    for body in ({}, {"prompt": "a", "messages": MESSAGES}):
        assert refused(ask(serve(), "/tokenize", body))["param"] == "prompt"
    assert refused(ask(serve(), "/tokenize", {"prompt": "a", "max_tokens": -1}))["param"] == "max_tokens"


def test_tools_count_as_they_do_in_a_chat() -> None:
    served = serve_like(TEMPLATE)
    body = {"messages": MESSAGES, "tools": [TOOL]}
    asked = cost(served, **body)
    assert asked["count"] == chat(served, **body)["usage"]["prompt_tokens"]
    assert asked["count"] > cost(served, messages=MESSAGES)["count"] + 50
