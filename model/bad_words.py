"""Keeps sequences of tokens out of one text (no torch)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


class BadWords:
    """Forbids the last token of each sequence where the tokens before it have just been written."""

    def __init__(self, words: Sequence[Sequence[int]]) -> None:
        self._words = [(tuple(word[:-1]), word[-1]) for word in words]
        self._max_before = max(len(before) for before, _ in self._words)
        self._tail: tuple[int, ...] = ()

    def take(self, token_id: int) -> None:
        """Go on by a token."""
        if self._max_before:
            self._tail = (*self._tail, token_id)[-self._max_before :]

    def narrow(self, row_W: NDArray[np.uint8]) -> None:
        """Take the tokens that would complete a word out of a mask of allowed tokens, unless no other is left."""
        left_W = row_W.copy()
        for before, last in self._words:
            if not before or self._tail[-len(before) :] == before:
                left_W[last >> 3] &= ~(1 << (last & 7)) & 0xFF
        if left_W.any():
            row_W[:] = left_W
