"""Settings as flags of a command line."""

import argparse
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic import ByteSize, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from server.command import BadUse, suggestion
from server.settings import Settings, read_settings, value_kind, variable


def add_setting_flags(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """A flag for each of these settings; a parser with `argument_default=SUPPRESS` is needed to tell what was given."""
    for name in names:
        if name == "model":
            parser.add_argument("model", nargs="?", metavar="MODEL", help=Settings.model_fields[name].description)
        else:
            _add_flag(parser, name, Settings.model_fields[name])


def settings_of(options: argparse.Namespace, file: Path | None = None) -> Settings:
    """The settings from flags, variables and a file. Raises BadUse."""
    flags = {name: vars(options)[name] for name in Settings.model_fields if name in options}
    try:
        return read_settings(flags, file)
    except ValidationError as error:
        raise BadUse(*(_fault(part, flags, file) for part in error.errors(include_input=False))) from None
    except OSError as error:
        raise BadUse(f"{error.filename}: {error.strerror}") from None
    except ValueError as error:
        raise BadUse(str(error)) from None


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


def _fault(error: ErrorDetails, flags: Collection[str], file: Path | None) -> str:
    if not error["loc"]:
        return error["msg"].removeprefix("Value error, ")
    name = str(error["loc"][0])
    if error["type"] == "extra_forbidden":  # only a file can hold one
        return f"{file}: unknown setting {name}{suggestion(name, list(Settings.model_fields))}"
    example = ", as in 4GiB" if error["type"].startswith("byte_size") else ""
    return f"{_source(name, flags, file)}: {error['msg']}{example}"


def _source(name: str, flags: Collection[str], file: Path | None) -> str:
    """Where the operator finds a setting that can't be the default."""
    if name not in flags and variable(name) in os.environ:
        return variable(name)
    return _flag(name) if name in flags or file is None else f"{file}: {name}"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
