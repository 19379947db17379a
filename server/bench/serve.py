"""`nexttoken bench serve`: a load on a server, at one level or several, and what came of it."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from server.bench.answer import Seen
from server.bench.arrivals import Arrivals, arrival_times
from server.bench.clients import LoadFailed, run_load
from server.bench.http import Connections, HttpError, Target
from server.bench.load import LoadPlan
from server.bench.null_server import null_server
from server.bench.summary import Summary, summarize
from server.bench.workload import Common, Session, Shape, drawn, read

# Of an open loop, unless a number of requests is given.
_OPEN_LOOP_S = 30
_PER_STREAM = 8
_OPEN_LOOP_WARM_UP = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeOptions:
    """What to send, and how."""

    base_url: str
    model: str | None
    api_key: str
    shape: Shape
    file: Path | None
    """Where the requests come from, if not drawn."""
    concurrency: Sequence[int] = ()
    """Levels of a closed loop; of an open loop without any."""
    rates: Sequence[float] = ()
    """Levels of an open loop: sessions begun a second."""
    arrivals: Arrivals = "poisson"
    num_sessions: int | None = None
    num_warm_up: int | None = None
    seed: int
    """Of prompts and arrivals."""
    ignores_eos: bool = True
    temperature: float = 0.0
    slo: Mapping[str, float] = field(default_factory=dict)
    num_processes: int = 1

    @property
    def levels(self) -> Sequence[float]:
        """What is gone through, one load each."""
        return self.rates or self.concurrency


class Level(msgspec.Struct):
    """One load of a sweep."""

    load: float
    """Streams at once, or sessions begun a second."""
    summary: Summary
    requests: list[Seen]


def bench_serve(options: ServeOptions) -> list[Level]:
    """Run all levels. Raises LoadFailed, and ValueError or OSError for what can't be read."""
    model = options.model or asyncio.run(served_model(Target.parse(options.base_url, options.api_key)))
    levels = []
    for number, load in enumerate(options.levels):
        results = run_load(_plan(options, model, number), options.num_processes)
        levels.append(Level(load, summarize(results, options.slo), results))
    return levels


def client_ceiling(options: ServeOptions) -> float:
    """Chunks a second that the same clients read from a server that costs nothing."""
    streams = max(options.concurrency, default=16 * options.num_processes)
    shape = Shape(input_len=8, output_len=max(options.shape.output_len, 64))
    with null_server() as url:
        plan = LoadPlan(
            base_url=url,
            api_key="",
            common=Common("null", ignores_eos=True),
            warm_up=drawn(shape, streams, "warm-up"),
            sessions=drawn(shape, streams * 4, "null"),
            concurrency=streams,
        )
        return summarize(run_load(plan, options.num_processes), {}).output_tokens_per_s


def _plan(options: ServeOptions, model: str, number: int) -> LoadPlan:
    """The load of one level. Each draws prompts of its own, so that none finds those of another in a cache."""
    load = options.levels[number]
    streams = 0 if options.rates else int(load)
    num_sessions = options.num_sessions or (int(load * _OPEN_LOOP_S) or 1 if options.rates else _PER_STREAM * streams)
    num_warm_up = (streams or _OPEN_LOOP_WARM_UP) if options.num_warm_up is None else options.num_warm_up
    seed = f"{options.seed}, level {number}"
    return LoadPlan(
        base_url=options.base_url,
        api_key=options.api_key,
        common=Common(model, options.ignores_eos, options.temperature),
        warm_up=_sessions(options, num_warm_up, f"{seed}, warm-up"),
        sessions=_sessions(options, num_sessions, seed),
        concurrency=streams or _OPEN_LOOP_WARM_UP,
        arrivals=arrival_times(num_sessions, load, options.arrivals, seed) if options.rates else None,
    )


def _sessions(options: ServeOptions, count: int, seed: str) -> list[Session]:
    if options.file is not None:
        return read(options.file, count, options.shape.output_len)
    return drawn(options.shape, count, seed)


_NEEDS_KEY = "it wants a key, or another one: --api-key or the variable OPENAI_API_KEY"
_REFUSALS = {
    401: _NEEDS_KEY,
    403: _NEEDS_KEY,
    404: "there is no /v1/models below this --base-url",
}


async def served_model(target: Target) -> str:
    """The first model that the server lists. Raises LoadFailed."""
    connections = Connections(target)
    pieces: list[bytes] = []
    try:
        status = await connections.ask("GET", "/v1/models", b"", pieces.append)
        if status in _REFUSALS:
            raise LoadFailed(f"{target.host}:{target.port} answers with status {status}: {_REFUSALS[status]}")
        return str(msgspec.json.decode(b"".join(pieces))["data"][0]["id"])
    except (HttpError, OSError) as error:
        raise LoadFailed(f"no answer from {target.host}:{target.port}: {error}") from error
    except (msgspec.MsgspecError, LookupError, TypeError) as error:
        raise LoadFailed(f"/v1/models lists no model (status {status}); name one with --model") from error
    finally:
        connections.close()
