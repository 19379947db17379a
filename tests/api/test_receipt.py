"""Every answer says where its time went, and the server learns from it how fast it reads."""

import asyncio
import logging
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.api.receipt import Receipt
from server.engine.messages import Output
from server.pace import Pace
from tests.api.serving import ask, serve
from tests.api.test_streams import BODIES, CHAT, COMPLETIONS

TIMING = re.compile(r'([a-z_]+);(?:dur=([0-9.]+)|desc="([0-9]+)")')


def parts(header: str) -> dict[str, float]:
    found = [TIMING.fullmatch(part) for part in header.split(", ")]
    assert all(found), header
    return {match[1]: float(match[2] or match[3]) for match in found if match}


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_a_whole_answer_has_a_whole_receipt(path: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    served = serve("abc")
    for cached in (0, 1):
        answer = ask(served, path, BODIES[path])
        timing = parts(answer.headers["server-timing"])
        assert list(timing) == ["queue", "prefill", "decode", "cached_tokens"]
        assert (timing["cached_tokens"] > 0) == cached
        spent_ms = timing["queue"] + timing["prefill"] + timing["decode"]
        # Headers have rounded milliseconds, parts hundredths.
        assert 0 < spent_ms <= int(answer.headers["openai-processing-ms"]) + 0.6
    assert all(f" {part}_s=" in caplog.text for part in ("queue", "prefill", "decode"))


def test_a_stream_is_told_what_is_known_when_it_begins() -> None:
    answer = ask(serve("abc"), COMPLETIONS, BODIES[COMPLETIONS] | {"stream": True})
    assert list(parts(answer.headers["server-timing"])) == ["queue", "prefill", "cached_tokens"]


def test_what_generates_nothing_has_no_parts() -> None:
    for body in (None, {"n": 0}):
        answer = ask(serve(max_in_flight=0), "/v1/models" if body is None else COMPLETIONS, body)
        assert "server-timing" not in answer.headers
        assert answer.headers["openai-processing-ms"].isdecimal()
        assert not any(name.startswith("x-ratelimit") for name in answer.headers), "there are no limits to tell of"


def test_waiting_for_a_place_counts_as_queue_and_not_as_prefill() -> None:
    receipt = Receipt()
    asked_at = time.monotonic()
    assert receipt.server_timing() == ""
    receipt.take(Output(index=0, token_ids=[1], num_cached=0, started_at=asked_at + 3), asked_at)
    assert receipt.queue_s == pytest.approx(3, abs=0.5)
    assert receipt.prefill_s == 0, "the clock of the worker's step can't be ahead of ours by more than rounding"


def test_requests_teach_the_model_its_pace() -> None:
    async def run() -> None:
        served = serve("abc")
        model = served.model
        assert model.pace.expected_ttft_s(10, is_queue_empty=True) is None
        async with served.client() as client:
            await client.post(COMPLETIONS, json={"prompt": ["a", "b"]})
            assert model.pace.expected_ttft_s(10, is_queue_empty=True) is None, "two prompts share their time"
            await client.post(COMPLETIONS, json={"prompt": "abc"})
        assert (model.pace.expected_ttft_s(10, is_queue_empty=True) or 0) > 0

    asyncio.run(run())


@given(
    st.floats(0, 1),
    st.floats(1e-6, 1e-2),
    st.lists(st.integers(1, 10**5), min_size=2, max_size=30).filter(lambda tokens: max(tokens) - min(tokens) > 20),
    st.integers(1, 10**5),
)
def test_a_model_with_a_constant_pace_is_predicted(at_zero: float, slope: float, seen: list[int], asked: int) -> None:
    pace = Pace()
    for num_tokens in seen:
        pace.note(num_tokens, at_zero + slope * num_tokens, queue_s=2.0)
    expected = at_zero + slope * asked
    assert pace.expected_ttft_s(asked, is_queue_empty=True) == pytest.approx(expected, rel=1e-2, abs=1e-4)
    assert pace.expected_ttft_s(asked, is_queue_empty=False) == pytest.approx(2 + expected, rel=1e-2, abs=1e-4)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.floats(0, 100)), min_size=1, max_size=20), st.integers(0, 10**6))
def test_whatever_was_seen_more_tokens_are_never_expected_sooner(seen: list[tuple[int, float]], asked: int) -> None:
    pace = Pace()
    for num_tokens, seconds in seen:
        pace.note(num_tokens, seconds, 0.0)
    fewer, more = (pace.expected_ttft_s(n, is_queue_empty=True) for n in (asked, asked + 100))
    assert fewer is not None
    assert more is not None
    assert 0 <= fewer <= more


def test_what_was_long_ago_counts_for_little() -> None:
    pace = Pace()
    for seconds in (10.0, 1.0):
        for _ in range(200):
            pace.note(100, seconds, 0.0)
    assert pace.expected_ttft_s(100, is_queue_empty=True) == pytest.approx(1, abs=0.2)
