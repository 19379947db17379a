"""What a choice's text turns out to be, piece by piece."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Content:
    """Words for the reader."""

    text: str


@dataclass(frozen=True, slots=True)
class Reasoning:
    """Words that the model thinks with."""

    text: str


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call of this tool begins. It can't be taken back."""

    name: str
    is_custom: bool = False
    """Whether an input follows, not arguments."""


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next piece of the call's arguments, a JSON object."""

    text: str


@dataclass(frozen=True, slots=True)
class CallInput:
    """The next piece of the input of a custom tool's call."""

    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The call is over."""

    is_complete: bool
    """Whether the arguments are a whole JSON object; they are not where the text ended or went wrong within them."""


Event: TypeAlias = Content | Reasoning | CallStart | CallArguments | CallInput | CallEnd


def merged(events: Iterable[Event]) -> list[Event]:
    """The same with neighbours of one kind joined."""
    joined: list[Event] = []
    for kind, run in groupby(events, key=type):
        if issubclass(kind, (Content, Reasoning, CallArguments, CallInput)):
            joined.append(kind("".join(event.text for event in run if isinstance(event, kind))))
        else:
            joined += run
    return joined
