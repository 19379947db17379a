"""Text that comes in pieces, for readers that are generators and see one character after another."""

import re
from collections.abc import Callable, Generator
from typing import TypeAlias, TypeVar

from server.text.events import Event

T = TypeVar("T")

Reading: TypeAlias = Generator[Event | None, None, T]
"""A reader at work: yields what it has understood, and None where it can't go on without more text."""

_BLANK = re.compile(r"[ \t\r\n]+")


class Source:
    """The text as far as it has come.

    A reader gets the same characters in whatever pieces they come, so what it makes of them can't depend on the pieces;
    and it gets each only once, so its time is linear.
    """

    def __init__(self) -> None:
        self._piece = ""
        self._at = 0
        self._has_ended = False
        self._kept: list[str] | None = None
        """Whole pieces since the mark; None without one."""
        self._mark = 0

    def feed(self, text: str) -> None:
        """Adds a piece, when the one before is read."""
        assert self._at == len(self._piece)
        if self._kept is not None:
            self._kept.append(self._piece[self._mark :])
        self._piece, self._at, self._mark = text, 0, 0

    def end(self) -> None:
        """There will be no more."""
        self._has_ended = True

    def mark(self) -> None:
        """From here on what is read is kept, for the reader to give back."""
        self._kept, self._mark = [], self._at

    def since_mark(self) -> str:
        """What was read since the mark."""
        assert self._kept is not None
        return "".join(self._kept) + self._piece[self._mark : self._at]

    def forget_mark(self) -> None:
        """What is read is no longer kept."""
        self._kept, self._mark = None, 0

    def peek(self) -> Reading[str]:
        """The next character, which stays unread; "" at the end."""
        while self._at == len(self._piece):
            if self._has_ended:
                return ""
            yield None
        return self._piece[self._at]

    def take(self) -> Reading[str]:
        """The next character; "" at the end."""
        character = yield from self.peek()
        self._at += len(character)
        return character

    def take_run(self, run: re.Pattern[str]) -> Reading[str]:
        """The longest run of characters of one class, as far as it has come; "" where the next one is another.

        `run` is a class with a plus.
        """
        yield from self.peek()
        found = run.match(self._piece, self._at)
        if found is None:
            return ""
        self._at = found.end()
        return found.group()

    def take_rest(self) -> Reading[str]:
        """Everything that has come; "" at the end."""
        yield from self.peek()
        rest, self._at = self._piece[self._at :], len(self._piece)
        return rest

    def take_blank(self) -> Reading[str]:
        """All white space from here on."""
        blank: list[str] = []
        while run := (yield from self.take_run(_BLANK)):
            blank.append(run)
        return "".join(blank)

    def take_literal(self, literal: str) -> Reading[str]:
        """As much of the literal as comes next, perhaps all of it."""
        for n, expected in enumerate(literal):
            if (yield from self.peek()) != expected:
                return literal[:n]
            self._at += 1
        return literal

    def take_whole(self, literal: str) -> Reading[bool]:
        """Reads over the literal if all of it comes next, and over nothing otherwise. Not after a mark."""
        assert self._kept is None
        taken = yield from self.take_literal(literal)
        if taken != literal:
            self._piece, self._at = taken + self._piece[self._at :], 0
        return taken == literal

    def take_until(self, marker: str, event: Callable[[str], Event]) -> Reading[bool]:
        """Reads over the marker, and yields what comes before it, as it comes. False: the text ended without one."""
        held = ""
        while (yield from self.peek()):
            held, self._at = held + self._piece[self._at :], len(self._piece)
            found = held.find(marker)
            if found >= 0:
                self._at -= len(held) - found - len(marker)
                if found:
                    yield event(held[:found])
                return True
            safe = len(held) - _overlap(held, marker)
            if safe:
                yield event(held[:safe])
            held = held[safe:]
        if held:
            yield event(held)
        return False


def _overlap(text: str, marker: str) -> int:
    """How many characters at the end of `text` may be the beginning of the marker."""
    longest = min(len(text), len(marker) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(marker[:n])), 0)
