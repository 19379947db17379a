"""Tells the control tokens that a chat template wrote from text of the same spelling that a client wrote."""

import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Rendered:
    """A conversation as the model's chat template wrote it."""

    text: str
    literals: tuple[tuple[int, int], ...] = ()
    """Spans [start, end) of `text`, in order, that are spelled like a control token but hold a client's words:
    they are to be encoded as plain text."""


class ControlTokens:
    """The spellings of a model's control tokens, and the marks that keep a client's text from becoming one.

    Client strings are marked before the template renders them, the marks are read back afterwards. Marks are two
    characters that occur nowhere else in the conversation; strings that can't take part in a control token stay as
    they are, so an ordinary conversation is rendered without any mark.
    """

    def __init__(self, spellings: Iterable[str]) -> None:
        tokens = sorted(set(spellings), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, tokens)) or "(?!)")
        self._openings = frozenset(token[:n] for token in tokens for n in range(1, len(token)))
        self._endings = frozenset(token[n:] for token in tokens for n in range(1, len(token)))
        self._longest = max(map(len, tokens), default=0)
        self._all = "\0".join(tokens)

    def is_suspect(self, text: str) -> bool:
        """Whether `text` holds a control token, or could form one with what the template puts before or after it."""
        return self._ends_one(text) or self._begins_one(text) or self._pattern.search(text) is not None

    def mark(self, value: Any, start: str, end: str) -> Any:
        """A copy of JSON data in which each string, keys too, carries marks where a control token could arise."""
        match value:
            case str():
                return self._mark_text(value, start, end)
            case dict():
                return {self.mark(key, start, end): self.mark(item, start, end) for key, item in value.items()}
            case list() | tuple():
                return [self.mark(item, start, end) for item in value]
            case _:
                return value

    def read(self, marked: str, start: str, end: str) -> Rendered:
        """Takes the marks out of a rendered text and says which control tokens in it touch a client's words.

        A control token is the client's if it begins at a start mark, ends at an end mark or has a mark inside, which
        still holds where the template cut a string apart or joined several.
        """
        starts: set[int] = set()
        ends: set[int] = set()
        positions: list[int] = []
        for mark in (start, end):
            marked = marked.replace(_escape(mark), mark)
        pieces = re.split(f"([{start}{end}])", marked)
        position = 0
        for i, piece in enumerate(pieces):
            if i % 2 == 0:
                position += len(piece)
            else:
                (starts if piece == start else ends).add(position)
                positions.append(position)
        text = "".join(pieces[::2])

        def is_from_client(first: int, last: int) -> bool:
            after = bisect_right(positions, first)
            return first in starts or last in ends or (after < len(positions) and positions[after] < last)

        spans = (match.span() for match in self._pattern.finditer(text))
        return Rendered(text, tuple(span for span in spans if is_from_client(*span)))

    def _mark_text(self, text: str, start: str, end: str) -> str:
        marked = self._pattern.sub(rf"{start}\g<0>{end}", text)
        return (start if self._ends_one(text) else "") + marked + (end if self._begins_one(text) else "")

    def _begins_one(self, text: str) -> bool:
        """Whether a control token could begin in `text`, or before it, and go on after it."""
        if any(text[-n:] in self._openings for n in range(1, min(len(text), self._longest) + 1)):
            return True
        # Plain words such as a role are left alone: templates compare them and build their own tokens from them.
        is_word = text.replace("_", "").isalnum()
        return 0 < len(text) < self._longest and not is_word and text in self._all

    def _ends_one(self, text: str) -> bool:
        return any(text[:n] in self._endings for n in range(1, min(len(text), self._longest) + 1))


def strings_in(value: Any) -> Iterator[str]:
    """Every string in JSON data, keys too."""
    match value:
        case str():
            yield value
        case dict():
            for key, item in value.items():
                yield from strings_in(key)
                yield from strings_in(item)
        case list() | tuple():
            for item in value:
                yield from strings_in(item)


def unused_characters(texts: Iterable[str], count: int) -> list[str]:
    """`count` characters of which `texts` hold neither themselves nor their escapes. Raises StopIteration if too few.

    They come from a block of rare ideographs: being letters, they pass through strip() and repr() unchanged, which
    private-use characters do not.
    """
    whole = "\0".join(texts)
    used = set(whole)
    candidates = map(chr, range(0x20000, 0x2A6D0))
    free = (character for character in candidates if character not in used and _escape(character) not in whole)
    return [next(free) for _ in range(count)]


def _escape(character: str) -> str:
    """The character as JSON of pure ASCII writes it, which a template may ask for."""
    return json.dumps(character)[1:-1]
