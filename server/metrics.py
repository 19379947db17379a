"""Every metric of the server in one list.

Names follow vLLM's where they mean the same, so that dashboards carry over by their prefix. Labels come from closed
sets: routes, status classes, finish reasons and served names, never from what a client sent.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.utils import floatToGoString

from server.engine.interface import Engine

_PREFIX = "nexttoken:"
_LATENCY_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_TOKEN_GAP_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2.5, 5, 10)
_TOKENS = tuple(4**power for power in range(11))


class Metrics:
    """Counters and histograms that the API fills, and the engine's own numbers read at each scrape."""

    def __init__(self, engines: Callable[[], Iterable[tuple[str, Engine]]]) -> None:
        """`engines` gives the served engines by name."""
        self._engine_numbers = CollectorRegistry()
        self._engine_numbers.register(_EngineNumbers(engines))
        self._counts = CollectorRegistry()
        self._tokens: dict[str, TokenCounts] = {}
        self._counts.register(_TokenNumbers(self._tokens))

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(_PREFIX + name, text, labels, registry=self._counts)

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(_PREFIX + name, text, ("model_name",), buckets=buckets, registry=self._counts)

        self.http_requests = counter("http_requests", "HTTP requests answered", "endpoint", "status")
        self.request_success = counter("request_success", "Choices finished", "model_name", "finished_reason")
        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens of finished requests", "model_name")
        self.time_to_first_token = histogram("time_to_first_token_seconds", "From request to first token", _LATENCY_S)
        self.e2e_latency = histogram("e2e_request_latency_seconds", "From request to last token", _LATENCY_S)
        self.request_prompt_tokens = histogram("request_prompt_tokens", "Prompt tokens a request", _TOKENS)
        self.request_generation_tokens = histogram("request_generation_tokens", "Tokens generated a request", _TOKENS)

    def tokens(self, model_name: str) -> "TokenCounts":
        """Where the tokens of this served model are counted."""
        return self._tokens.setdefault(model_name, TokenCounts())

    def engine_numbers(self) -> str:
        """What the engines say of themselves, in Prometheus' text format."""
        text: str = generate_latest(self._engine_numbers).decode()
        return text

    def counts(self) -> str:
        """What was counted in this process since it started, in the same format."""
        text: str = generate_latest(self._counts).decode()
        return text


class TokenCounts:
    """What is counted at each token, in plain numbers: the library's counters take a lock for each of theirs."""

    def __init__(self) -> None:
        self.num_generated = 0
        self._gaps = [0] * (len(_TOKEN_GAP_S) + 1)
        """By bucket; the last is for those above all bounds."""
        self._gaps_s = 0.0

    def note_gap(self, seconds: float) -> None:
        """A choice got a token so long after the one before."""
        self._gaps[bisect_left(_TOKEN_GAP_S, seconds)] += 1
        self._gaps_s += seconds

    def gaps(self) -> tuple[list[tuple[str, float]], float]:
        """How many gaps were at most as long as each bound, and the sum of all in seconds."""
        bounds = map(floatToGoString, (*_TOKEN_GAP_S, float("inf")))
        return list(zip(bounds, accumulate(self._gaps), strict=True)), self._gaps_s


class _TokenNumbers:
    """The counts of all models, read when asked."""

    def __init__(self, tokens: dict[str, TokenCounts]) -> None:
        self._tokens = tokens

    def collect(self) -> Iterator[Metric]:
        labels = ["model_name"]
        generated = CounterMetricFamily(_PREFIX + "generation_tokens", "Tokens generated", labels=labels)
        gaps = HistogramMetricFamily(
            _PREFIX + "inter_token_latency_seconds", "Between a choice's tokens", labels=labels
        )
        for model_name, counts in self._tokens.items():
            generated.add_metric([model_name], counts.num_generated)
            gaps.add_metric([model_name], *counts.gaps())
        yield generated
        yield gaps


class _EngineNumbers:
    """What the engines say of themselves, read when asked."""

    def __init__(self, engines: Callable[[], Iterable[tuple[str, Engine]]]) -> None:
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        families = {name: family(_PREFIX + name, text, labels=["model_name"]) for name, family, text, _ in _ENGINE}
        for model_name, engine in self._engines():
            for name, _, _, read in _ENGINE:
                families[name].add_metric([model_name], read(engine))
        yield from families.values()


def _cache_usage(engine: Engine) -> float:
    num_blocks = engine.model.num_blocks if engine.model else 0
    return engine.status.stats.num_blocks_used / num_blocks if num_blocks else 0.0


_Family = type[GaugeMetricFamily] | type[CounterMetricFamily]

_ENGINE: tuple[tuple[str, _Family, str, Callable[[Engine], float]], ...] = (
    ("num_requests_running", GaugeMetricFamily, "Sequences in the batch", lambda e: e.status.stats.num_running),
    ("num_requests_waiting", GaugeMetricFamily, "Sequences in the queue", lambda e: e.status.stats.num_waiting),
    ("num_requests_in_flight", GaugeMetricFamily, "Sequences accepted", lambda e: e.status.num_in_flight),
    ("kv_cache_usage_perc", GaugeMetricFamily, "Part of the KV blocks held, 0 to 1", _cache_usage),
    ("ready", GaugeMetricFamily, "1 while requests are taken", lambda e: e.status.phase == "ready"),
    ("num_preemptions", CounterMetricFamily, "Sequences preempted", lambda e: e.status.stats.num_preemptions),
    (
        "prefix_cache_queries",
        CounterMetricFamily,
        "Prompt tokens looked up",
        lambda e: e.status.stats.prefix_query_tokens,
    ),
    ("prefix_cache_hits", CounterMetricFamily, "Prompt tokens found", lambda e: e.status.stats.prefix_hit_tokens),
    (
        "spec_decode_num_draft_tokens",
        CounterMetricFamily,
        "Tokens guessed and verified",
        lambda e: e.status.stats.num_drafts,
    ),
    (
        "spec_decode_num_accepted_tokens",
        CounterMetricFamily,
        "Guessed tokens that were right",
        lambda e: e.status.stats.num_accepted_drafts,
    ),
    ("worker_restarts", CounterMetricFamily, "Workers started after the first", lambda e: e.status.num_restarts),
)
