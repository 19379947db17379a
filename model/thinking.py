"""Ends a model's thoughts when they have had their tokens: follows one text through its tags (no torch)."""

from collections.abc import Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

_BLANK = b" \t\r\n"


class ThinkingBudget(msgspec.Struct, frozen=True):
    """How many tokens a text may think, and the tags around its thoughts."""

    max_tokens: int
    """Of the thoughts alone, without their tags."""
    opening: bytes
    closing: bytes
    closing_ids: tuple[int, ...]
    """The tokens that are forced when the budget is used up: one special token, or several of ordinary text."""
    is_open: bool
    """Whether the prompt has written the opening tag, so that the text begins with thoughts."""


class Thoughts:
    """The thoughts of one text, as far as it has come.

    A text that doesn't begin with the opening tag has none. Tags are told by their bytes, however they are spelled.
    """

    def __init__(self, budget: ThinkingBudget, tokens: Sequence[bytes]) -> None:
        """`tokens`: what each token adds to a text."""
        self._budget = budget
        self._tokens = tokens
        self._is_open = budget.is_open
        self._is_over = False
        self._tail = b""
        """What may be the beginning of the next tag."""
        self._num_thought = 0
        self._num_forced = 0

    def take(self, token_id: int) -> None:
        """Go on by a token."""
        if self._is_over:
            return
        if self._is_open and token_id == self._forced_id:
            self._num_forced += 1
        self._num_thought += self._is_open
        self._tail += self._tokens[token_id]
        if not self._is_open:
            self._open()
        if self._is_open:
            self._is_over = self._budget.closing in self._tail
            self._tail = self._tail[-len(self._budget.closing) :]

    def narrow(self, row_W: NDArray[np.uint8]) -> None:
        """Leave the next token of the closing tag alone in a mask of allowed tokens, if it is time for it.

        Where a grammar doesn't allow it, as in the middle of a character, the mask stays as it is for this token.
        """
        token_id = self._forced_id
        if token_id is not None and row_W[token_id >> 3] >> (token_id & 7) & 1:
            row_W[:] = 0
            row_W[token_id >> 3] = 1 << (token_id & 7)

    @property
    def _forced_id(self) -> int | None:
        budget = self._budget
        if self._is_over or not self._is_open or self._num_thought < budget.max_tokens:
            return None
        return budget.closing_ids[self._num_forced] if self._num_forced < len(budget.closing_ids) else None

    def _open(self) -> None:
        opening, text = self._budget.opening, self._tail.lstrip(_BLANK)
        if text.startswith(opening):
            self._is_open, self._tail = True, text[len(opening) :]
        else:
            self._is_over, self._tail = not opening.startswith(text), text
