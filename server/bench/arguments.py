"""What the flags of several measurements are made of."""

import argparse
import math
import os
from pathlib import Path
from typing import Any

import msgspec

MAX_DIGITS = 9
"""Of whole numbers."""


def add_processes(parser: argparse.ArgumentParser) -> None:
    """How many processes send the load."""
    parser.add_argument("--processes", type=count, default=1, metavar="N", help="client processes (default: 1)")


def add_json(parser: argparse.ArgumentParser) -> None:
    """Where the results go as data."""
    parser.add_argument("--json", type=new_file, default=None, metavar="FILE", help="write the results there, too")


def write_json(options: argparse.Namespace, results: Any) -> None:
    """Write the results where --json says."""
    if options.json is not None:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")


def new_file(text: str) -> Path:
    """A file to write, looked at before measuring for minutes. Raises ArgumentTypeError."""
    path = Path(text)
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"no file can be written at {text!r}")
    return path


def count(text: str) -> int:
    """A whole number of at least 1. Raises ArgumentTypeError."""
    if whole(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)


def whole(text: str) -> int:
    """A whole number. Raises ArgumentTypeError."""
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def counts(text: str) -> list[int]:
    """Such numbers with commas between them. Raises ArgumentTypeError."""
    return [count(part) for part in text.split(",")]


def rates(text: str) -> list[float]:
    """Numbers above 0 with commas between them. Raises ArgumentTypeError."""
    return [_positive(part) for part in text.split(",")]


def temperature(text: str) -> float:
    """A number of at least 0. Raises ArgumentTypeError."""
    if not 0 <= (number := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 0")
    return number


def slo(text: str) -> dict[str, float]:
    """The most milliseconds of each term, as in ttft=500,tpot=50. Raises ArgumentTypeError."""
    from server.bench.summary import SLO_TERMS

    bounds = {}
    for part in text.split(","):
        term, equals, most = part.partition("=")
        if not equals:
            raise argparse.ArgumentTypeError(f"{part!r} has no bound in milliseconds, as in ttft=500")
        if term not in SLO_TERMS:
            raise argparse.ArgumentTypeError(f"{term!r} is none of {', '.join(SLO_TERMS)}")
        bounds[term] = _positive(most)
    return bounds


def _positive(text: str) -> float:
    if not 0 < (number := _number(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number above 0")
    return number


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
