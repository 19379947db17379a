"""Draws small sums and counts as slots for the chat templates."""

from collections.abc import Callable
from random import Random

Slots = dict[str, str]

WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
    "twenty",
]


def _sum(rng: Random) -> Slots:
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    return _numbers(a=a, b=b, c=a + b)


def _difference(rng: Random) -> Slots:
    a, b = sorted((rng.randint(0, 10), rng.randint(0, 10)), reverse=True)
    return _numbers(a=a, b=b, c=a - b)


def _product(rng: Random) -> Slots:
    a, b = rng.randint(0, 10), rng.randint(0, 10)
    return _numbers(a=a, b=b, c=a * b)


def _neighbours(rng: Random) -> Slots:
    """A number with the one before and the one after."""
    a = rng.randint(1, 100)
    return _numbers(before=a - 1, a=a, after=a + 1)


def _bigger(rng: Random) -> Slots:
    a, b = rng.sample(range(31), 2)
    return _numbers(a=a, b=b, big=max(a, b), small=min(a, b))


def _large(rng: Random) -> Slots:
    """Numbers that are too big for the model."""
    return _numbers(a=rng.randint(51, 99999), b=rng.randint(13, 9999))


def _count(rng: Random) -> Slots:
    """A stretch of the counting row, in figures, in words and backwards."""
    start = rng.choice((1, 1, 1, rng.randint(2, 10)))
    end = start + rng.randint(2, 10 if start > 1 else 19)
    numbers = [str(n) for n in range(start, end + 1)]
    words = [WORDS[n] for n in range(1, min(end, 20) + 1)]
    return {
        "start": str(start),
        "end": str(end),
        "last": words[-1],
        "row": ", ".join(numbers),
        "upto": ", ".join(str(n) for n in range(1, end + 1)),
        "down": ", ".join(reversed(numbers)),
        "words": ", ".join(words),
    }


def _numbers(**numbers: int) -> Slots:
    """Each number in figures, and as a word under its name with `_word` (figures again above twenty)."""
    words = {f"{name}_word": WORDS[n] if n < len(WORDS) else str(n) for name, n in numbers.items()}
    return {name: str(n) for name, n in numbers.items()} | words


TABLES: dict[str, Callable[[Random], Slots]] = {
    "sum": _sum,
    "difference": _difference,
    "product": _product,
    "neighbours": _neighbours,
    "bigger": _bigger,
    "large": _large,
    "count": _count,
}
