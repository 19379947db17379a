"""A command of the command line: its parser, whose faults are one line each, and the ways it can end badly."""

import argparse
import difflib
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import NoReturn

from model.errors import ModelError

EXIT_FAILED = 1
EXIT_BAD_USE = 2


class BadUse(Exception):
    """Wrong arguments."""

    def __init__(self, *lines: str) -> None:
        """What is wrong, a line for each fault, naming the flag."""
        super().__init__(*lines)
        self.lines = lines


class CommandFailed(Exception):
    """The command could not do its work; the text is one line that says why."""


class Parser(argparse.ArgumentParser):
    """A command's parser; commands within it have parsers of this class, too.

    Its defaults are `command`, itself, and `run`, which takes the options, returns the exit code and may raise BadUse,
    CommandFailed and, for a model that can't be used, ModelError.
    """

    def run(self, arguments: Sequence[str] | None) -> int:
        """Run the command that the arguments name. Returns the exit code; ends the process for wrong arguments."""
        options, unknown = self.parse_known_args(arguments)
        command: Parser = options.command
        if unknown:
            known = [flag for action in command._actions for flag in action.option_strings]
            # What stands behind an unknown flag may be its value.
            faults = [name for before, name in pairwise(["", *unknown]) if name[:1] == "-" or before[:1] != "-"]
            command.refuse([f"unknown {name}{suggestion(name, known)}" for name in faults])
        try:
            code: int = options.run(options)
        except BadUse as fault:
            command.refuse(fault.lines)
        except ModelError as error:
            command.refuse([" ".join(str(error).split())])
        except CommandFailed as failure:
            print(f"{command.prog}: {failure}", file=sys.stderr)
            return EXIT_FAILED
        return code

    def error(self, message: str) -> NoReturn:
        """One line, where argparse prints all flags before it."""
        self.refuse([message])

    def _check_value(self, action: argparse.Action, value: object) -> None:
        """As argparse does, with a suggestion."""
        if action.choices is not None and value not in action.choices:
            known = list(map(str, action.choices))
            message = f"invalid choice: {value!r} (choose from {', '.join(known)}){suggestion(str(value), known)}"
            raise argparse.ArgumentError(action, message)

    def refuse(self, lines: Sequence[str]) -> NoReturn:
        """Say what is wrong and end."""
        for line in lines:
            print(f"{self.prog}: {line}", file=sys.stderr)
        sys.exit(EXIT_BAD_USE)


def suggestion(name: str, known: Sequence[str], prefix: str = "") -> str:
    """The end of a sentence about an unknown flag or name: the known one that is most like it, if one is.

    All names begin with the prefix, which those in `known` are given without.
    """
    found = difflib.get_close_matches(name.removeprefix(prefix).partition("=")[0], known, n=1)
    return f", did you mean {prefix}{found[0]}?" if found else ""
