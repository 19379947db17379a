"""What a choice's text turns out to be, piece by piece."""

from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class CallArguments:
    """The next piece of the call's arguments, a JSON object."""

    text: str


@dataclass(frozen=True, slots=True)
class CallEnd:
    """The call is over."""

    is_complete: bool
    """Whether the arguments are a whole JSON object; they are not where the text ended or went wrong within them."""


Event: TypeAlias = Content | Reasoning | CallStart | CallArguments | CallEnd


def merged(events: list[Event]) -> list[Event]:
    """The same with neighbours of one kind joined."""
    joined: list[Event] = []
    texts: list[str] = []
    for event in events:
        if isinstance(event, (CallStart, CallEnd)):
            joined.append(event)
            continue
        if not texts or type(event) is not type(joined[-1]):
            texts = []
            joined.append(event)
        texts.append(event.text)
        joined[-1] = event
    return joined
