"""Servers side by side in one run: each is started, put under the standard loads and stopped, in turn, again and again.

make bench                                        # beside a transformers loop
python benchmarks/peers.py nexttoken-int8 llama.cpp-q8_0 --shape llama-1b --rounds 5

Who there is: benchmarks/peers.toml, or another file by --config.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

import psutil
from make_model import SHAPES, make_model
from servers import ROOT, environment, free_port, running
from spread import spread

from model.threads import available_cores
from server.bench.serve import ServeOptions, bench_serve
from server.bench.summary import Summary
from server.bench.workload import Shape
from server.command import CommandFailed


@dataclass(frozen=True)
class Scenario:
    """A standard load."""

    num_streams: int
    num_requests: int
    shape: Shape


SCENARIOS = {
    "c1": Scenario(1, 3, Shape(input_len=128, output_len=128)),
    "c16": Scenario(16, 32, Shape(input_len=128, output_len=64)),
    "prefill": Scenario(1, 3, Shape(input_len=1024, output_len=1)),
    # The warm-up leaves the prefix in the cache.
    "prefix": Scenario(8, 16, Shape(input_len=640, output_len=16, prefix_len=512)),
}


@dataclass(frozen=True, kw_only=True)
class Peer:
    """What is measured."""

    name: str
    command: str
    """With $PORT, $MODEL and so on."""
    ready: str = "/health"
    model: str | None = None
    """As requests name it, if it isn't the first that the server lists."""
    is_loop: bool = False
    """Not a server: it prints its figures as one JSON object, which are best of several."""


Figures = dict[str, float]


def main() -> None:
    options = _options()
    directory = ROOT / "build" / options.shape
    make_model(options.shape, directory)
    peers = _read_peers(options.config, options.names)
    variables = {"MODEL": str(directory), "SHAPE": options.shape, "THREADS": str(available_cores())}
    print(f"{options.shape}, {available_cores()} threads, load {os.getloadavg()[0]:.1f} before", flush=True)
    rounds: list[dict[str, Figures]] = []
    for number in range(options.rounds):
        rounds.append({})
        for peer in peers:
            figures = rounds[-1][peer.name] = {}
            for measure, value in _figures(peer, variables, number):
                figures[measure] = value
                print(f"round {number + 1}, {peer.name}: {measure} {value:.2f}", flush=True)
    print("\n" + _table(rounds, [peer.name for peer in peers]))
    if options.json is not None:
        options.json.write_text(json.dumps(rounds, indent=1) + "\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["nexttoken", "transformers"], help="peers; the first is compared")
    parser.add_argument("--config", type=Path, default=Path(__file__).with_name("peers.toml"), help="who there is")
    parser.add_argument("--shape", choices=SHAPES, default="llama-135m", help="of the model, whose weights are random")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round's figures to this file, too")
    return parser.parse_args()


def _read_peers(config: Path, names: Sequence[str]) -> list[Peer]:
    known = tomllib.loads(config.read_text())
    for name in names:
        if name not in known:
            sys.exit(f"{config.name} has no {name}; it has {', '.join(known)}")
    return [Peer(name=name, **known[name]) for name in names]


def _figures(peer: Peer, variables: dict[str, str], number: int) -> Iterator[tuple[str, float]]:
    """One turn of a peer: measures, as they come."""
    if peer.is_loop:
        command = _command(peer, variables)
        output = subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=ROOT, env=environment()).stdout
        yield from json.loads(output).items()
        return
    port = free_port()
    with running(_command(peer, variables | {"PORT": str(port)}), port, peer.ready) as server:
        yield "start to ready (s)", server.start_s
        for name, scenario in SCENARIOS.items():
            yield from _of_scenario(name, scenario, _run(server.url, peer, scenario, number))
        yield "memory (MiB)", _memory_mib(server.pid)


def _run(url: str, peer: Peer, scenario: Scenario, number: int) -> Summary:
    options = ServeOptions(
        base_url=url,
        model=peer.model,
        api_key="",
        shape=scenario.shape,
        file=None,
        concurrency=[scenario.num_streams],
        num_sessions=scenario.num_requests,
        num_warm_up=1,
        seed=number,
    )
    (level,) = bench_serve(options)
    summary = level.summary
    if summary.num_errors or summary.num_short:
        sys.exit(f"{peer.name}: {summary.num_short} answers were short, and these failed: {summary.errors}")
    return summary


def _of_scenario(name: str, scenario: Scenario, summary: Summary) -> Iterator[tuple[str, float]]:
    if name == "prefill":
        yield "prefill (tokens/s)", scenario.shape.input_len / summary.ttft_ms[0] * 1e3
        return
    yield f"{name} (tokens/s)", summary.output_tokens_per_s
    if name == "c1":
        yield "c1, decode (tokens/s)", 1e3 / summary.tpot_ms[0]


def _command(peer: Peer, variables: dict[str, str]) -> list[str]:
    try:
        filled = Template(peer.command).substitute(os.environ | {"PYTHON": sys.executable} | variables)
    except KeyError as error:
        sys.exit(f"{peer.name} needs the variable {error.args[0]}: see benchmarks/peers.toml")
    return shlex.split(filled)


def _memory_mib(pid: int) -> float:
    """Of the process and its children; what they share counts once."""
    tree = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    return sum(process.memory_full_info().pss for process in tree) / 2**20


def _table(rounds: Sequence[dict[str, Figures]], names: Sequence[str]) -> str:
    """Markdown: medians with least and most, and how many times another's the first one's are, round by round."""
    first, *others = names
    measures = list(dict.fromkeys(measure for name in names for measure in rounds[0][name]))
    lines = ["| measure |" + "".join(f" {name} |" for name in names) + "".join(f" {first} / {o} |" for o in others)]
    lines.append("|---" * (len(names) + len(others) + 1) + "|")
    for measure in measures:
        cells = [spread([figures[name].get(measure) for figures in rounds]) for name in names]
        for other in others:
            pairs = [(figures[first].get(measure), figures[other].get(measure)) for figures in rounds]
            cells.append(spread([a / b if a and b else None for a, b in pairs], digits=2))
        lines.append("| " + " | ".join([measure, *cells]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    try:
        main()
    except CommandFailed as failure:
        sys.exit(str(failure))
