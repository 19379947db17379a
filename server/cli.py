"""The command line: `nexttoken serve [MODEL] [--flag value ...]`."""

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NoReturn, get_args, get_origin

from pydantic import ByteSize, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from server.settings import Settings, read_settings, value_kind
from server.version import VERSION

EXIT_BAD_USE = 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command. Exits with 2 for wrong usage and for a model that can't be served."""
    parser = argparse.ArgumentParser(prog="nexttoken", description="An OpenAI-compatible inference server.")
    parser.add_argument("--version", action="version", version=f"nexttoken {VERSION}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_serve(commands)
    options, unknown = parser.parse_known_args(arguments)
    if unknown:
        _refuse([f"unknown {argument}{_suggestion(argument)}" for argument in unknown if argument.startswith("-")])
    settings = _settings_or_exit(options)
    # Imported late: --help and wrong flags answer without loading a server.
    from server.serve import serve

    sys.exit(serve(settings))


def _add_serve(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "serve",
        help="serve a model over HTTP",
        description=f"{Settings.__doc__} The variables are named NEXTTOKEN_ and the flag's name, as in NEXTTOKEN_PORT.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("model", nargs="?", metavar="MODEL", help=Settings.model_fields["model"].description)
    parser.add_argument("--model", dest="model", metavar="MODEL", help="the same, as a flag")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML or TOML file with settings by name")
    for name, field in Settings.model_fields.items():
        if name != "model":
            _add_flag(parser, name, field)


def _add_flag(parser: argparse.ArgumentParser, name: str, field: FieldInfo) -> None:
    """A flag for a setting. Values stay text here: pydantic reads them, by the rules that hold for all sources."""
    flag = _flag(name)
    kind = value_kind(field)
    default = field.default
    suffix = f" (default: {default})" if default not in (None, (), "") else ""
    help_text = (field.description or "").replace("%", "%%") + suffix
    if kind is bool:
        parser.add_argument(flag, action=argparse.BooleanOptionalAction, help=help_text)
    elif get_origin(kind) is tuple:
        parser.add_argument(flag, action="append", metavar="TEXT", help=help_text)
    elif get_origin(kind) is Literal:
        parser.add_argument(flag, metavar="|".join(map(str, get_args(kind))), help=help_text)
    else:
        metavar = {int: "N", float: "X", ByteSize: "BYTES"}.get(kind, "TEXT")
        parser.add_argument(flag, metavar=metavar, help=help_text)


def _settings_or_exit(options: argparse.Namespace) -> Settings:
    flags = vars(options)
    file = flags.pop("config", None)
    del flags["command"]
    try:
        return read_settings(flags, file)
    except ValidationError as error:
        _refuse([_fault(part) for part in error.errors(include_input=False)])
    except OSError as error:
        _refuse([f"{error.filename}: {error.strerror}"])
    except ValueError as error:
        _refuse([str(error)])


def _fault(error: ErrorDetails) -> str:
    if not error["loc"]:
        return error["msg"].removeprefix("Value error, ")
    flag = _flag(str(error["loc"][0]))
    if error["type"] == "extra_forbidden":  # only a file can hold one
        return f"unknown setting {flag[2:]} in the file{_suggestion(flag)}"
    return f"{flag}: {error['msg']}"


def _suggestion(flag: str) -> str:
    known = ["--config", *map(_flag, Settings.model_fields)]
    found = difflib.get_close_matches(flag.partition("=")[0], known, n=1)
    return f", did you mean {found[0]}?" if found else ""


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _refuse(lines: Sequence[str]) -> NoReturn:
    for line in lines:
        print(f"nexttoken serve: {line}", file=sys.stderr)
    sys.exit(EXIT_BAD_USE)


if __name__ == "__main__":
    main()
