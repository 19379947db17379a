"""Our own server against its own engine, and with and without what shall make it faster: in turn, round by round.

python benchmarks/serving.py http drafts prefix --rounds 3
python benchmarks/serving.py http --shape llama-1b
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from added_ttft import first_tokens
from make_model import SHAPES, make_model
from servers import ROOT, environment, free_port, running
from spread import spread

from server.bench.percentiles import percentile

P50, _, P99 = range(3)
CLI = [sys.executable, "-m", "server.cli"]

Figures = Iterator[tuple[str, float]]


class Load:
    """Loads on one server, each with prompts of its own."""

    def __init__(self, url: str, seed: int) -> None:
        self.url = url
        self._seed = seed

    def command(self, flags: str) -> list[str]:
        self._seed += 1
        return [*CLI, "bench", "serve", "--base-url", self.url, "--seed", str(self._seed), *flags.split()]

    def __call__(self, flags: str) -> dict[str, Any]:
        """Summary of the one level that the flags of `bench serve` ask for."""
        summary = dict(measured(self.command(flags))["levels"][0]["summary"])
        if summary["num_errors"] or summary["num_short"]:
            sys.exit(f"answers were short or failed: {summary['errors']}")
        return summary


def measured(command: Sequence[str]) -> Any:
    """What a measurement writes with --json."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        command = [*command, "--json", file.name]
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, cwd=ROOT, env=environment())
        return json.load(file)


class Round:
    """One turn of all that a table compares."""

    def __init__(self, model: Path, draft: Path, number: int) -> None:
        self.model = model
        self.draft = draft
        self._seed = 1000 * number

    @contextmanager
    def server(self, flags: str) -> Iterator[Load]:
        """Ours, with these flags."""
        port = free_port()
        command = [*CLI, "serve", str(self.model), "--port", str(port), "--log-level", "warning", *flags.split()]
        with running(command, port) as server:
            yield Load(server.url, self._seed)

    def engine(self, flags: str) -> list[dict[str, float]]:
        """The cases of `bench engine`."""
        return list(measured([*CLI, "bench", "engine", str(self.model), *flags.split()])["cases"])


def http(turn: Round) -> Figures:
    """Time per token through HTTP, and of the engine alone."""
    with turn.server("--no-speculation") as load:
        loads = {n: load(f"--concurrency {n} --requests 16 --input-len 16 --output-len 256") for n in (1, 16)}
    for case in turn.engine("--batch 1,16 --context 144"):
        streams = int(case["batch"])
        http_ms, engine_ms = loads[streams]["tpot_ms"][P50], case["decode_step_ms"]
        yield f"{streams} streams, ms a token through HTTP", http_ms
        yield f"{streams} streams, ms a step of the engine", engine_ms
        yield f"{streams} streams, HTTP over engine", engine_ms / http_ms


def ttft(turn: Round) -> Figures:
    """What the server adds to the step that computes a first token, of prompts of 16 tokens."""
    with turn.server("--no-speculation") as load:
        seen = first_tokens(load.url, 300, 16)
    added = [ttft_ms - step_ms for ttft_ms, step_ms in seen]
    yield "the step, p50, ms", percentile([step_ms for _, step_ms in seen], 50)
    yield "added, p50, ms", percentile(added, 50)
    yield "added, p99, ms", percentile(added, 99)


def gaps(turn: Round) -> Figures:
    """Gaps between the tokens of eight streams while long prompts keep arriving."""
    with turn.server("--no-speculation") as load:
        prompts = load.command("--rate 1 --requests 14 --warm-up 0 --input-len 2000 --output-len 1")
        arriving = subprocess.Popen(prompts, stdout=subprocess.DEVNULL, cwd=ROOT, env=environment())
        found = load("--concurrency 8 --requests 16 --warm-up 0 --input-len 16 --output-len 600")["itl_ms"]
        arriving.wait()
    yield "gap p50, ms", found[P50]
    yield "gap p99, ms", found[P99]
    yield "p99 over p50", found[P99] / found[P50]


def drafts(turn: Round) -> Figures:
    """n-gram drafts on text that repeats itself, as greedy text of random weights does, and on text that doesn't."""
    loads = {
        f"{streams} streams, {kind}": f"--concurrency {streams} --requests {8 * streams} {flags}"
        for streams in (1, 8)
        for kind, flags in (
            ("copied text", "--input-len 64 --output-len 200"),
            ("drawn text", "--input-len 64 --output-len 100 --temperature 1"),
        )
    }
    yield from with_and_without(turn, "--speculation", "--no-speculation", loads)


def draft_model(turn: Round) -> Figures:
    """A draft model whose guesses are never right."""
    loads = {
        f"{n} streams": f"--concurrency {n} --requests {4 * n} --input-len 64 --output-len 100 --temperature 1"
        for n in (1, 8, 16)
    }
    yield from with_and_without(turn, f"--draft-model {turn.draft}", "--no-speculation", loads)


def prefix(turn: Round) -> Figures:
    """The prefix cache where nothing is shared, and where all but a token is."""
    loads = {"16 streams, nothing shared": "--concurrency 16 --requests 64 --input-len 128 --output-len 64"}
    yield from with_and_without(turn, "--no-speculation", "--no-speculation --no-enable-prefix-caching", loads)
    with turn.server("--no-speculation") as load:
        short = load("--concurrency 1 --requests 50 --input-len 16 --output-len 1")["ttft_ms"][P50]
        found = load("--concurrency 1 --requests 50 --input-len 1025 --prefix-len 1024 --output-len 1")["ttft_ms"][P50]
    yield "16 tokens, ms until the first token", short
    yield "1,025 tokens, 1,024 found, ms until the first token", found
    yield "found over short", found / short


def with_and_without(turn: Round, flags: str, without: str, loads: dict[str, str]) -> Figures:
    """Output tokens a second under these loads, with the one and the other flags, and how much that is."""
    # Both servers are up, so that little time lies between the two turns of a load; the one that waits takes none.
    with turn.server(flags) as ours, turn.server(without) as other:
        for name, asked in loads.items():
            rates = [load(asked)["output_tokens_per_s"] for load in (ours, other)]
            yield f"{name}, tokens/s with", rates[0]
            yield f"{name}, tokens/s without", rates[1]
            yield f"{name}, with over without", rates[0] / rates[1]


TABLES: dict[str, Callable[[Round], Figures]] = {
    "http": http,
    "ttft": ttft,
    "gaps": gaps,
    "drafts": drafts,
    "draft-model": draft_model,
    "prefix": prefix,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", choices=TABLES, help="what to measure")
    parser.add_argument("--shape", choices=SHAPES, default="llama-135m", help="of the model, whose weights are random")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model, draft = ROOT / "build" / options.shape, ROOT / "build" / f"{options.shape}-draft"
    make_model(options.shape, model)
    if "draft-model" in options.tables:
        make_model(options.shape, draft, num_layers=2, seed=1)
    for name in options.tables:
        figures: dict[str, list[float]] = defaultdict(list)
        for number in range(options.rounds):
            for measure, value in TABLES[name](Round(model, draft, number)):
                figures[measure].append(value)
                print(f"round {number + 1}, {measure}: {value:.2f}", file=sys.stderr, flush=True)
        print(f"\n{TABLES[name].__doc__}\n\n| {options.shape} | |\n|---|---|")
        for measure, values in figures.items():
            print(f"| {measure} | {spread(values, digits=2)} |")


if __name__ == "__main__":
    main()
