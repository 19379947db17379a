"""What the requests of a load add up to."""

import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import msgspec

from server.bench.answer import Seen
from server.bench.percentiles import percentile

PERCENTS = (50, 90, 99)


def duration(results: Sequence[Seen]) -> float:
    """Seconds from the first request's time to the last answer's end."""
    return max(seen.ended_at for seen in results) - min(seen.due_at for seen in results)


def ttft_ms(seen: Seen) -> float:
    """Time to the first text. An answer without any had none before its end."""
    return ((seen.text_times[0] if seen.text_times else seen.ended_at) - seen.due_at) * 1e3


def tpot_ms(seen: Seen) -> float:
    """Time per output token after the first text; 0 for a single token."""
    if seen.num_output < 2 or not seen.text_times:
        return 0.0
    return (seen.text_times[-1] - seen.text_times[0]) / (seen.num_output - 1) * 1e3


def e2e_ms(seen: Seen) -> float:
    """Time to the answer's end."""
    return (seen.ended_at - seen.due_at) * 1e3


SLO_TERMS: dict[str, Callable[[Seen], float]] = {"ttft": ttft_ms, "tpot": tpot_ms, "e2e": e2e_ms}
"""What an SLO can bound, in milliseconds."""


class Summary(msgspec.Struct, kw_only=True):
    """One load in numbers: tokens and latencies are those of complete answers."""

    num_requests: int
    num_errors: int
    errors: dict[str, int]
    """How often each came."""
    num_short: int
    """Complete answers with fewer tokens than were asked for."""
    duration_s: float
    requests_per_s: float
    output_tokens_per_s: float
    total_tokens_per_s: float
    """Prompts and answers."""
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    num_chunks: int
    """With text."""
    tokens_are_counted: bool
    """Whether the server said how many tokens there were; else each chunk with text counts as one, a prompt as none."""
    ttft_ms: list[float]
    """Percentiles, as PERCENTS, as the next ones are."""
    itl_ms: list[float]
    """Between two chunks of one answer."""
    tpot_ms: list[float]
    e2e_ms: list[float]
    goodput_share: float
    """Of all requests, those complete within the SLO."""
    goodput_per_s: float


def summarize(results: Sequence[Seen], slo: Mapping[str, float]) -> Summary:
    """Add up at least one request. `slo`: most milliseconds by term of SLO_TERMS."""
    complete = [seen for seen in results if not seen.error]
    duration_s = duration(results)
    output_tokens = sum(seen.num_output for seen in complete)
    prompt_tokens = sum(seen.num_prompt for seen in complete)
    num_good = sum(all(SLO_TERMS[term](seen) <= most for term, most in slo.items()) for seen in complete)
    errors = Counter(seen.error for seen in results if seen.error)
    return Summary(
        num_requests=len(results),
        num_errors=errors.total(),
        errors=dict(errors),
        num_short=sum(seen.is_counted and seen.num_output < seen.max_tokens for seen in complete),
        duration_s=duration_s,
        requests_per_s=len(complete) / duration_s,
        output_tokens_per_s=output_tokens / duration_s,
        total_tokens_per_s=(output_tokens + prompt_tokens) / duration_s,
        prompt_tokens=prompt_tokens,
        cached_tokens=sum(seen.num_cached for seen in complete),
        output_tokens=output_tokens,
        num_chunks=sum(len(seen.text_times) for seen in complete),
        tokens_are_counted=all(seen.is_counted for seen in complete),
        ttft_ms=_percentiles([ttft_ms(seen) for seen in complete]),
        itl_ms=_percentiles([gap * 1e3 for seen in complete for gap in _gaps(seen)]),
        tpot_ms=_percentiles([tpot_ms(seen) for seen in complete if seen.num_output > 1]),
        e2e_ms=_percentiles([e2e_ms(seen) for seen in complete]),
        goodput_share=num_good / len(results),
        goodput_per_s=num_good / duration_s,
    )


def _percentiles(values: Sequence[float]) -> list[float]:
    return [percentile(values, percent) for percent in PERCENTS]


def _gaps(seen: Seen) -> list[float]:
    return [after - before for before, after in itertools.pairwise(seen.text_times)]
