"""The flags of `nexttoken bench serve`."""

import argparse
import dataclasses
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from server.bench.arguments import (
    MAX_DIGITS,
    add_json,
    add_processes,
    count,
    counts,
    new_file,
    rates,
    slo,
    temperature,
    whole,
    write_json,
)
from server.bench.arrivals import Arrivals
from server.command import EXIT_FAILED, BadUse

if TYPE_CHECKING:
    from server.bench.serve import ServeOptions


def add_serve(measurements: "argparse._SubParsersAction[Any]") -> None:
    """Add the command."""
    parser = measurements.add_parser(
        "serve",
        help="a server, over HTTP",
        description="Sends a load to any server with OpenAI's endpoints: prompts of random tokens, unless told "
        "otherwise. A level of --concurrency is a closed loop of so many streams, each a request after another's "
        "answer; a level of --rate an open loop, whose latencies count from when a request was due. A session is a "
        "request or, with --turns, a chat.",
    )
    add = parser.add_argument
    add("--base-url", default="http://127.0.0.1:8000", metavar="URL", help="the server (default: %(default)s)")
    add("--model", metavar="NAME", help="model to name in requests (default: the first that the server lists)")
    add("--api-key", default=os.environ.get("OPENAI_API_KEY", ""), metavar="KEY", help=_KEY_HELP)
    add("--concurrency", type=counts, metavar="N,...", help="streams at once, a level each (default: 1,4,16)")
    add("--rate", type=rates, metavar="X,...", help="sessions begun a second, a level each")
    add("--arrivals", choices=get_args(Arrivals), help="how they are spread in time (default: poisson)")
    add("--requests", type=count, metavar="N", help="sessions of each level (default: 8 a stream, or 30 s at the rate)")
    add(
        "--warm-up",
        type=whole,
        metavar="N",
        help="sessions before each level, not measured (default: 1 a stream, or 4)",
    )
    add("--input-len", type=count, metavar="N", help="tokens of a prompt (default: 128)")
    add("--output-len", type=count, default=128, metavar="N", help="tokens of an answer (default: %(default)s)")
    add("--prefix-len", type=whole, default=0, metavar="N", help="of the input, tokens that all prompts begin with")
    add("--turns", type=count, default=1, metavar="N", help="more than 1: chats of so many questions")
    add("--chat", action="store_true", help="ask the chat endpoint")
    add("--words", action="store_true", help="prompts of words, for servers that take no token ids")
    add(
        "--file",
        type=Path,
        metavar="FILE",
        help="requests from JSON lines with prompt or messages, and max_tokens if they like",
    )
    add("--ignore-eos", action=argparse.BooleanOptionalAction, default=True, help="answers of full length")
    add("--temperature", type=temperature, default=0.0, metavar="X", help="of the draws (default: 0)")
    add("--seed", type=whole, metavar="N", help="of prompts and arrivals (default: another one in each run)")
    add("--slo", type=slo, default={}, metavar="ttft=MS,tpot=MS,e2e=MS", help="count what stays within these")
    add_processes(parser)
    add_json(parser)
    add("--plot", type=new_file, metavar="FILE", help="draw latency over throughput into this SVG file")
    parser.set_defaults(run=_serve, command=parser)


_KEY_HELP = "bearer token (default: what the variable OPENAI_API_KEY holds)"


def _serve(options: argparse.Namespace) -> int:
    from server.bench.plot import plot
    from server.bench.report import report
    from server.bench.serve import bench_serve, client_ceiling

    chosen = _serve_options(options)
    try:
        levels = bench_serve(chosen)
    except (OSError, ValueError) as error:
        raise BadUse(f"--file: {error}") from None
    ceiling = client_ceiling(chosen)
    print(report(chosen, levels, ceiling))
    if options.plot is not None:
        options.plot.write_text(plot(levels, "sessions/s" if chosen.rates else "streams"))
    write_json(options, {"asked": _asked(chosen), "client_ceiling": ceiling, "levels": levels})
    return 0 if all(level.summary.num_errors < level.summary.num_requests for level in levels) else EXIT_FAILED


def _serve_options(options: argparse.Namespace) -> "ServeOptions":
    """The options, checked against each other. Raises BadUse."""
    from server.bench.http import Target
    from server.bench.serve import ServeOptions
    from server.bench.workload import Shape

    if options.rate and options.concurrency:
        raise BadUse("--rate and --concurrency: a loop is open or closed")
    if options.arrivals and not options.rate:
        raise BadUse("--arrivals spreads requests in time, which needs --rate")
    if options.file is not None and (options.input_len or options.prefix_len or options.words or options.turns > 1):
        raise BadUse("--file holds the prompts; --input-len, --prefix-len, --words and --turns are for drawn ones")
    concurrency = options.concurrency or ([] if options.rate else [1, 4, 16])
    if options.processes > min(concurrency, default=options.processes):
        raise BadUse(f"--processes {options.processes} is more than --concurrency {min(concurrency)}")
    shape = Shape(
        input_len=options.input_len or 128,
        output_len=options.output_len,
        prefix_len=options.prefix_len,
        num_turns=options.turns,
        is_chat=options.chat or options.turns > 1,
        uses_words=options.words,
    )
    if shape.prefix_len >= shape.input_len:
        raise BadUse(f"--prefix-len {shape.prefix_len} leaves nothing of --input-len {shape.input_len}")
    try:
        Target.parse(options.base_url)
    except ValueError as error:
        raise BadUse(f"--base-url: {error}") from None
    return ServeOptions(
        base_url=options.base_url,
        model=options.model,
        api_key=options.api_key,
        shape=shape,
        file=options.file,
        concurrency=concurrency,
        rates=options.rate or [],
        arrivals=options.arrivals or "poisson",
        num_sessions=options.requests,
        num_warm_up=options.warm_up,
        # A server may still hold the prompts of the last run.
        seed=secrets.randbelow(10**MAX_DIGITS) if options.seed is None else options.seed,
        ignores_eos=options.ignore_eos,
        temperature=options.temperature,
        slo=options.slo,
        num_processes=options.processes,
    )


def _asked(options: "ServeOptions") -> dict[str, Any]:
    """All that it takes to do it again, but for the key."""
    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(options)}
    return fields | {"api_key": "set" if options.api_key else "", "file": str(options.file or "")}
