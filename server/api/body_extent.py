"""Bounds what a JSON body holds before it is parsed, which is one call that lets no other thread run."""

import re
from collections.abc import Iterable, Iterator

from server.errors import PayloadTooLarge

# More than any request needs: 256 prompts of 8,192 token ids. So many take some 0.2 s to parse.
MAX_VALUES = 2**21
# Strings, names, lists and objects cost more than numbers, and only token ids come in great numbers.
MAX_STRUCTURES = 2**18

_STRUCTURES = (b":", b"[", b"{")
# Possessive, so that nothing is kept to go back to.
_IN_STRING = re.compile(rb'(?:[^"\\]|\\.)[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
# A match lets no other thread run: so much of a string takes some 5 ms.
_PIECE = 2**20


def check_extent(body: bytes) -> None:
    """Raise PayloadTooLarge for more values, or more that are no numbers, than a request has."""
    # Counted as they are first: most bodies have so few even with what stands in their strings.
    if len(body) <= MAX_STRUCTURES or _is_small(body, [(0, len(body))], body.count(b'"') // 2):
        return
    if not _is_small(body, _outside_strings(body)):
        raise PayloadTooLarge(
            f"the body has more than {MAX_VALUES} values, or {MAX_STRUCTURES} strings, lists and objects; send fewer "
            "prompts at once"
        )


def _is_small(body: bytes, spans: Iterable[tuple[int, int]], num_strings: int = 0) -> bool:
    """Whether these parts of the body are within the bounds. `num_strings`: those beside one after each part."""
    num_values, num_structures = 0, num_strings
    for start, end in spans:
        num_values += body.count(b",", start, end)
        num_structures += 1 + sum(body.count(mark, start, end) for mark in _STRUCTURES)
        if num_values > MAX_VALUES or num_structures > MAX_STRUCTURES:
            return False
    return True


def _outside_strings(body: bytes) -> Iterator[tuple[int, int]]:
    end_of_string = 0
    while (begin := body.find(b'"', end_of_string)) >= 0:
        yield end_of_string, begin
        end_of_string = _end_of_string(body, begin + 1)
    yield end_of_string, len(body)


def _end_of_string(body: bytes, position: int) -> int:
    """Where the string that holds this position is over."""
    while match := _IN_STRING.match(body, position, position + _PIECE):
        position = match.end()
    return position + 1
