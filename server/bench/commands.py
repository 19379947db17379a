"""The command line of `nexttoken bench`: what each measurement takes, and what it does with the result."""

import argparse
import json
from pathlib import Path
from typing import Any

from server.command import BadUse


def add_bench(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add the command and its own commands."""
    parser = commands.add_parser("bench", help="measure speed", description="Measure speed.")
    measurements = parser.add_subparsers(required=True, metavar="WHAT")
    _add_api(measurements)


def _add_api(measurements: "argparse._SubParsersAction[Any]") -> None:
    parser = measurements.add_parser(
        "api",
        help="the HTTP half alone",
        description="Streams from the real API process in front of a worker that computes nothing.",
    )
    parser.add_argument("--streams", type=counts, default=[1, 16, 256], help="streams at once (default: 1,16,256)")
    parser.add_argument("--tokens", type=count, default=128, help="tokens of each answer (default: 128)")
    _add_processes(parser)
    _add_json(parser)
    parser.set_defaults(run=_api, command=parser)


def _api(options: argparse.Namespace) -> int:
    from server.bench.api import MAX_STREAMS, bench_api

    if max(options.streams) > MAX_STREAMS:
        raise BadUse(f"--streams {max(options.streams)} is more than {MAX_STREAMS}")
    _write_json(options, bench_api(options.streams, options.tokens, options.processes))
    return 0


def _add_processes(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--processes", type=count, default=1, help="client processes (default: 1)")


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the results to this file, too")


def _write_json(options: argparse.Namespace, results: Any) -> None:
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def count(text: str) -> int:
    """A whole number of at least 1. Raises ArgumentTypeError."""
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def counts(text: str) -> list[int]:
    """Such numbers with commas between them. Raises ArgumentTypeError."""
    return [count(part) for part in text.split(",")]
