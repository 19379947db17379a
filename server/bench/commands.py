"""The command line of `nexttoken bench`."""

import argparse
from typing import Any

from server.bench.arguments import add_json, add_processes, count, counts, new_file, whole, write_json
from server.bench.serve_command import add_serve
from server.command import BadUse
from server.flags import add_setting_flags, settings_of


def add_bench(commands: "argparse._SubParsersAction[Any]") -> None:
    """Add the command with its own commands. What measures is imported when it is asked for."""
    parser = commands.add_parser("bench", help="measure speed", description="Measure speed.")
    measurements = parser.add_subparsers(required=True, metavar="WHAT")
    add_serve(measurements)
    _add_engine(measurements)
    _add_api(measurements)
    _add_scheduler(measurements)


def _add_engine(measurements: "argparse._SubParsersAction[Any]") -> None:
    parser = measurements.add_parser(
        "engine",
        help="the model's steps, without HTTP",
        description="Prefill and decode of so many sequences with so long a context, beside the bytes that this device "
        "can read and the products that it can compute a second: MBU and MFU are the shares of these that were used.",
        argument_default=argparse.SUPPRESS,
    )
    add_setting_flags(parser, _ENGINE_SETTINGS)
    parser.add_argument(
        "--batch", type=counts, default=[1, 8], metavar="N,...", help="sequences at once (default: 1,8)"
    )
    parser.add_argument(
        "--context", type=counts, default=[128, 1024], metavar="N,...", help="tokens of each (default: 128,1024)"
    )
    parser.add_argument("--profile", type=new_file, default=None, metavar="FILE", help="write a trace of some steps")
    add_json(parser)
    parser.set_defaults(run=_engine, command=parser)


_ENGINE_SETTINGS = (
    "model",
    "revision",
    "device",
    "dtype",
    "quantization",
    "kv_cache_dtype",
    "kernels",
    "num_threads",
    "max_num_batched_tokens",
    "block_size",
    "kv_cache_memory_bytes",
    "gpu_memory_utilization",
)


def _engine(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from server.bench.engine import bench_engine
    from server.serve import model_directory, worker_config

    runner = worker_config(settings, model_directory(settings)).runner
    write_json(options, bench_engine(runner, options.batch, options.context, options.profile))
    return 0


def _add_api(measurements: "argparse._SubParsersAction[Any]") -> None:
    parser = measurements.add_parser(
        "api",
        help="the HTTP half alone",
        description="Streams from the real API processes in front of a worker that computes nothing.",
    )
    add = parser.add_argument
    add("--streams", type=counts, default=[1, 16, 256], metavar="N,...", help="streams at once (default: 1,16,256)")
    add("--tokens", type=count, default=128, metavar="N", help="tokens of each answer (default: %(default)s)")
    add_processes(parser)
    add("--api-processes", type=count, default=1, metavar="N", help="as of nexttoken serve (default: 1)")
    add(
        "--step-ms",
        type=whole,
        default=0,
        metavar="N",
        help="milliseconds that a step lasts, needed with several API processes, for nothing tells the worker "
        "when they lag behind (default: as long as its tokens take to be sent)",
    )
    add_json(parser)
    parser.set_defaults(run=_api, command=parser)


def _api(options: argparse.Namespace) -> int:
    from server.bench.api import MAX_STREAMS, bench_api

    if max(options.streams) > MAX_STREAMS:
        raise BadUse(f"--streams {max(options.streams)} is more than {MAX_STREAMS}")
    if options.api_processes > 1 and not options.step_ms:
        raise BadUse("--api-processes needs --step-ms")
    write_json(
        options, bench_api(options.streams, options.tokens, options.processes, options.api_processes, options.step_ms)
    )
    return 0


def _add_scheduler(measurements: "argparse._SubParsersAction[Any]") -> None:
    parser = measurements.add_parser(
        "scheduler",
        help="the scheduler and block pool alone",
        description="Time that scheduling takes of a step in which all sequences decode.",
    )
    parser.add_argument(
        "--sequences",
        type=counts,
        default=[16, 64, 256],
        metavar="N,...",
        help="sequences that run at once (default: 16,64,256)",
    )
    add_json(parser)
    parser.set_defaults(run=_scheduler, command=parser)


def _scheduler(options: argparse.Namespace) -> int:
    from server.bench.scheduler import bench_scheduler

    write_json(options, bench_scheduler(options.sequences))
    return 0
