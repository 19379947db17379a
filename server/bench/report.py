"""A sweep as a person reads it."""

from collections.abc import Callable, Sequence

from server.bench.serve import Level, ServeOptions
from server.bench.summary import PERCENTS, Summary
from server.bench.table import table
from server.bench.workload import Shape

# A client whose own ceiling is nearer than this may be what was measured.
_SAFE_CEILING = 3
# Two random prompts may begin with the same word.
_SAME_BY_CHANCE = 0.1

Value = Callable[[Summary], float]


def report(options: ServeOptions, levels: Sequence[Level], ceiling: float) -> str:
    """A column for each level, and below them what must be known to trust them.

    `ceiling`: chunks/s that the clients alone can read.
    """
    summaries = [level.summary for level in levels]
    header = ["sessions begun/s" if options.rates else "streams", *(f"{level.load:g}" for level in levels)]
    rows: list[list[str | float]] = [[name, *map(value, summaries)] for name, value in _rows(has_slo=bool(options.slo))]
    lines = [table(header, rows), ""]
    fastest = max(one.num_chunks / one.duration_s for one in summaries)
    verdict = "enough" if ceiling >= _SAFE_CEILING * fastest else "they may be what was measured, add --processes"
    lines.append(f"The clients alone read {ceiling:,.0f} chunks/s, {fastest:,.0f} is the most above: {verdict}.")
    lines.append(f"Prompts and arrivals: --seed {options.seed}.")
    if options.file is None and any(_finds_more(options.shape, one) for one in summaries):
        lines.append(
            "More was cached than these prompts share: the server holds them from before; choose another --seed."
        )
    if not all(one.tokens_are_counted for one in summaries):
        lines.append("The server doesn't count tokens: chunks with text were counted.")
    lines += [
        f"{count} of {level.summary.num_requests} at {level.load:g} failed: {error}"
        for level in levels
        for error, count in level.summary.errors.items()
    ]
    return "\n".join(lines)


def _finds_more(shape: Shape, one: Summary) -> bool:
    """Whether the server computed less than what its prompts have for themselves."""
    num_own = shape.own_len * (one.num_requests - one.num_errors)
    return one.cached_tokens > 0 and one.prompt_tokens - one.cached_tokens < (1 - _SAME_BY_CHANCE) * num_own


def _rows(has_slo: bool) -> list[tuple[str, Value]]:
    rows: list[tuple[str, Value]] = [
        ("requests", lambda one: one.num_requests),
        ("failed", lambda one: one.num_errors),
        ("shorter than asked for", lambda one: one.num_short),
        ("output tokens/s", lambda one: one.output_tokens_per_s),
        ("total tokens/s", lambda one: one.total_tokens_per_s),
        ("requests/s", lambda one: one.requests_per_s),
        ("tokens/chunk", lambda one: one.output_tokens / max(1, one.num_chunks)),
        ("cached prompt tokens %", lambda one: 100 * one.cached_tokens / max(1, one.prompt_tokens)),
    ]
    for name, of in _LATENCIES.items():
        rows += [(f"{name} ms p{percent}", _at(of, place)) for place, percent in enumerate(PERCENTS)]
    if has_slo:
        rows += [
            ("within the SLO %", lambda one: 100 * one.goodput_share),
            ("goodput requests/s", lambda one: one.goodput_per_s),
        ]
    return rows


_LATENCIES: dict[str, Callable[[Summary], list[float]]] = {
    "TTFT": lambda one: one.ttft_ms,
    "ITL": lambda one: one.itl_ms,
    "TPOT": lambda one: one.tpot_ms,
    "e2e": lambda one: one.e2e_ms,
}


def _at(of: Callable[[Summary], list[float]], place: int) -> Value:
    return lambda one: of(one)[place]
