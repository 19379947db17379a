"""The commands: `nexttoken serve [MODEL]`, `nexttoken doctor [MODEL]`, `nexttoken bench WHAT`, each with flags."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from server.bench.commands import add_bench
from server.command import Parser
from server.flags import add_setting_flags, settings_of
from server.settings import Settings
from server.version import VERSION


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run one command. Exits with 2 for wrong usage and for a model that can't be served."""
    parser = Parser(prog="nexttoken", description="An OpenAI-compatible inference server.")
    parser.add_argument("--version", action="version", version=f"nexttoken {VERSION}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_doctor(commands)
    add_bench(commands)
    sys.exit(parser.run(arguments))


def _add_serve(commands: "argparse._SubParsersAction[Any]") -> None:
    parser = commands.add_parser(
        "serve",
        help="serve a model over HTTP",
        description=f"{Settings.__doc__} The variables are named NEXTTOKEN_ and the flag's name, as in NEXTTOKEN_PORT.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--model", dest="model", metavar="MODEL", help="the same as MODEL, as a flag")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML or TOML file with settings by name")
    add_setting_flags(parser, Settings.model_fields)
    parser.set_defaults(run=_serve, command=parser)


def _serve(options: argparse.Namespace) -> int:
    settings = settings_of(options, vars(options).get("config"))
    # Imported late: --help and wrong flags answer without loading a server.
    from server.serve import serve

    return serve(settings)


def _add_doctor(commands: "argparse._SubParsersAction[Any]") -> None:
    parser = commands.add_parser(
        "doctor",
        help="examine this machine",
        description="Says what this machine has and what of it a server would use, proves that this computes what "
        "plain torch computes, and measures how near a decode step comes to the memory's limit. Exits with 1 if a line "
        "should be looked at.",
        argument_default=argparse.SUPPRESS,
    )
    add_setting_flags(parser, _DOCTOR_SETTINGS)
    parser.set_defaults(run=_doctor, command=parser)


_DOCTOR_SETTINGS = (
    "model",
    "revision",
    "device",
    "dtype",
    "quantization",
    "kv_cache_dtype",
    "kernels",
    "max_model_len",
    "max_num_seqs",
    "block_size",
    "num_threads",
)


def _doctor(options: argparse.Namespace) -> int:
    settings = settings_of(options)
    from server.doctor import doctor
    from server.serve import model_directory, worker_config

    return doctor(worker_config(settings, model_directory(settings)).runner)
