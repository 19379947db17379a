"""Sums of what several processes have counted."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from server.hub.exposition import summed
from server.metrics import Metrics

SAMPLES = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.floats(0.001, 600)), max_size=8)


def counted(samples: list[tuple[str, int, float]]) -> str:
    metrics = Metrics(lambda: ())
    for model, num_tokens, seconds in samples:
        metrics.tokens(model).num_generated += num_tokens
        metrics.tokens(model).note_gap(seconds)
        metrics.http_requests.labels(f'/{model} "x"', "2xx").inc()
        metrics.time_to_first_token.labels(model).observe(seconds)
    return metrics.counts()


def values(text: str) -> dict[tuple, float]:
    families = list(text_string_to_metric_families(text))
    assert len({family.name for family in families}) == len(families), "a family's samples stand apart"
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


@settings(max_examples=25)
@given(SAMPLES, SAMPLES)
def test_the_sum_of_two_processes_is_what_one_would_have_counted(one: list, other: list) -> None:
    assert values(summed([counted(one), counted(other)])) == pytest.approx(values(counted(one + other)))


def test_the_time_since_when_something_is_counted_is_the_earliest() -> None:
    text = "# HELP a_created A\n# TYPE a_created gauge\na_created %s\n"
    assert summed([text % "5.0", text % "3.0", "", text % "4.0"]) == text % "3.0"
