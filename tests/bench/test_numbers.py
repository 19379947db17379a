"""Percentiles, arrivals, drawn prompts, shares and sums."""

import itertools
import math
from collections.abc import Sequence
from statistics import mean, quantiles
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.bench.answer import Seen
from server.bench.arrivals import arrival_times
from server.bench.clients import shares
from server.bench.load import LoadPlan
from server.bench.percentiles import percentile
from server.bench.plot import plot
from server.bench.report import report
from server.bench.serve import Level, ServeOptions
from server.bench.summary import summarize
from server.bench.table import table
from server.bench.workload import Common, Shape, drawn

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=50)


@given(VALUES, st.integers(1, 99))
def test_percentiles_are_those_of_the_standard_library(values: list[float], percent: int) -> None:
    expected = quantiles(values, n=100, method="inclusive")[percent - 1]
    assert percentile(values, percent) == pytest.approx(expected, abs=1e-6)


def test_percentiles_of_one_value_and_of_none() -> None:
    assert percentile([3.0], 99) == 3
    assert math.isnan(percentile([], 50))


@given(st.integers(1, 200), st.floats(0.1, 1000))
def test_fixed_arrivals_are_evenly_apart(count: int, rate: float) -> None:
    times = arrival_times(count, rate, "fixed", "seed")
    assert times[0] == 0
    assert all(later - sooner == pytest.approx(1 / rate) for sooner, later in itertools.pairwise(times))


def test_poisson_arrivals_come_at_the_rate_with_gaps_that_vary_as_much_as_they_last() -> None:
    times = arrival_times(20_000, 50, "poisson", "seed")
    gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert mean(gaps) == pytest.approx(1 / 50, rel=0.05)
    # An exponential distribution's: half of the gaps are shorter than ln 2 of the mean.
    assert percentile(gaps, 50) == pytest.approx(math.log(2) / 50, rel=0.05)
    assert times == arrival_times(20_000, 50, "poisson", "seed")
    assert times != arrival_times(20_000, 50, "poisson", "other")


@given(st.integers(1, 40), st.integers(0, 39), st.booleans())
def test_drawn_prompts_share_their_prefix_and_no_more(input_len: int, prefix_len: int, uses_words: bool) -> None:
    prefix_len = min(prefix_len, input_len - 1)
    shape = Shape(input_len=input_len, output_len=1, prefix_len=prefix_len, uses_words=uses_words)
    prompts = [session.turns[0].prompt for seed in ("a", "b") for session in drawn(shape, 2, seed)]
    parts: Sequence[Sequence[object]] = [one.split() if isinstance(one, str) else one for one in prompts]
    assert {len(part) for part in parts} == {input_len}
    assert len({tuple(part[:prefix_len]) for part in parts}) == 1
    assert drawn(shape, 2, "a") == drawn(shape, 2, "a")
    if input_len - prefix_len > 8:
        assert len({tuple(part) for part in parts}) == 4


@given(st.integers(1, 8), st.integers(0, 30), st.integers(0, 40))
def test_shares_are_the_whole_plan_and_users_are_dealt_out_evenly(count: int, extra: int, num_sessions: int) -> None:
    shape = Shape(input_len=4, output_len=1)
    plan = LoadPlan(
        base_url="",
        api_key="",
        common=Common("m", True),
        warm_up=[],
        sessions=drawn(shape, num_sessions, "s"),
        concurrency=count + extra,
        arrivals=[float(number) for number in range(num_sessions)],
    )
    parts = shares(plan, count)
    assert sum(part.concurrency for part in parts) == plan.concurrency
    assert max(part.concurrency for part in parts) - min(part.concurrency for part in parts) <= 1
    together = [pair for part in parts for pair in zip(part.arrivals or [], part.sessions, strict=True)]
    assert sorted(together, key=lambda pair: pair[0]) == list(zip(plan.arrivals or [], plan.sessions, strict=True))


def seen(due_at: float, times: list[float], *, num_output: int | None = None, error: str = "") -> Seen:
    return Seen(
        max_tokens=4,
        due_at=due_at,
        text_times=times,
        ended_at=times[-1] if times else due_at + 1,
        num_prompt=10,
        num_output=len(times) if num_output is None else num_output,
        is_counted=True,
        error=error,
    )


GOOD = seen(0.0, [0.1, 0.2, 0.3, 0.4])
LATE = seen(0.0, [0.5, 0.6, 0.7, 0.8])
SLOW = seen(0.0, [0.1, 0.8, 1.5, 2.0])
FAILED = seen(0.0, [0.1], error="status 500: ")


def test_a_load_adds_up() -> None:
    summary = summarize([GOOD, LATE, SLOW, FAILED], {})
    assert (summary.num_requests, summary.num_errors, summary.errors) == (4, 1, {"status 500: ": 1})
    assert (summary.duration_s, summary.output_tokens, summary.prompt_tokens) == (2.0, 12, 30)
    assert (summary.output_tokens_per_s, summary.total_tokens_per_s, summary.requests_per_s) == (6, 21, 1.5)
    assert summary.ttft_ms[0] == pytest.approx(100)
    assert summary.tpot_ms[0] == pytest.approx(100)
    assert summary.num_short == 0
    assert summarize([seen(0.0, [0.1, 0.2])], {}).num_short == 1


def test_goodput_is_what_is_complete_within_every_bound() -> None:
    results = [GOOD, LATE, SLOW, FAILED]
    assert summarize(results, {"ttft": 200}).goodput_share == 0.5
    assert summarize(results, {"tpot": 200}).goodput_share == 0.5
    assert summarize(results, {"ttft": 200, "tpot": 200}).goodput_share == 0.25
    assert summarize(results, {"e2e": 1000}).goodput_per_s == 1.0


def test_an_answer_without_text_had_its_first_at_its_end_and_no_time_per_token() -> None:
    summary = summarize([seen(0.0, [], num_output=1)], {"ttft": 999, "tpot": 1})
    assert summary.ttft_ms[0] == 1000
    assert math.isnan(summary.tpot_ms[0])
    assert math.isnan(summary.itl_ms[0])
    assert summary.goodput_share == 0


@pytest.mark.parametrize(
    ("num_cached", "prefix_len", "num_turns", "is_told"),
    [(0, 0, 1, False), (8, 0, 1, True), (8, 8, 1, False), (8, 4, 1, True), (2, 4, 2, False), (9, 4, 2, True)],
)
def test_prompts_that_the_server_holds_from_before_are_told_of(
    num_cached: int, prefix_len: int, num_turns: int, is_told: bool
) -> None:
    answer = msgspec.structs.replace(GOOD, num_cached=num_cached)  # of 10 tokens
    options = ServeOptions(
        base_url="",
        model="m",
        api_key="",
        shape=Shape(input_len=10, output_len=4, prefix_len=prefix_len, num_turns=num_turns),
        file=None,
        concurrency=[1],
        seed=3,
    )
    assert ("More was cached" in report(options, [Level(1, summarize([answer], {}), [])], 100.0)) is is_told


@pytest.mark.parametrize(("ceiling", "verdict"), [(100.0, ": enough."), (20.0, ", add --processes.")])
def test_the_clients_are_judged(ceiling: float, verdict: str) -> None:
    options = ServeOptions(
        base_url="", model="m", api_key="", shape=Shape(input_len=1, output_len=4), file=None, concurrency=[1], seed=3
    )
    assert "10 is the most above: " in (text := report(options, [Level(1, summarize([GOOD], {}), [])], ceiling))
    assert verdict in text


def test_a_plot_is_xml_with_a_mark_for_each_level_and_percentile() -> None:
    levels = [Level(1, summarize([GOOD], {}), []), Level(2, summarize([LATE, SLOW], {}), [])]
    tree = ElementTree.fromstring(plot([*levels, Level(3, summarize([seen(0.0, [], num_output=1)], {}), [])], "<&>"))
    marks = tree.findall(".//{http://www.w3.org/2000/svg}circle")
    assert len(marks) == 3 * 3 + 2 * 3  # the last level has no time per token
    texts = [text.text for text in tree.findall(".//{http://www.w3.org/2000/svg}text")]
    assert "TTFT, ms, by <&>" in texts
    assert {"p50", "p90", "p99"} <= set(texts)


def test_a_table_shows_three_digits_at_least() -> None:
    text = table(["a", "b"], [["x", 1234.5], ["yy", 12.34], ["z", 1.234], ["n", float("nan")], ["i", 7]])
    assert [line.split()[1] for line in text.splitlines()] == ["b", "1,234", "12.3", "1.23", "-", "7"]
    assert len({len(line) for line in text.splitlines()}) == 1
