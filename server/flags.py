"""Settings as flags of a command line."""

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic import ByteSize, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from server.command import BadUse, suggestion
from server.settings import Settings, read_settings, value_kind


def add_setting_flags(parser: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """A flag for each of these settings; a parser with `argument_default=SUPPRESS` is needed to tell what was given."""
    for name in names:
        if name == "model":
            parser.add_argument("model", nargs="?", metavar="MODEL", help=Settings.model_fields[name].description)
        else:
            _add_flag(parser, name, Settings.model_fields[name])


def settings_of(options: argparse.Namespace, file: Path | None = None) -> Settings:
    """The settings from flags, variables and a file. Raises BadUse."""
    try:
        return read_settings({name: vars(options)[name] for name in Settings.model_fields if name in options}, file)
    except ValidationError as error:
        raise BadUse(*(_fault(part) for part in error.errors(include_input=False))) from None
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


def _fault(error: ErrorDetails) -> str:
    if not error["loc"]:
        return error["msg"].removeprefix("Value error, ")
    flag = _flag(str(error["loc"][0]))
    if error["type"] == "extra_forbidden":  # only a file can hold one
        return f"unknown setting {flag[2:]} in the file{suggestion(flag, list(map(_flag, Settings.model_fields)))}"
    return f"{flag}: {error['msg']}"


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
