"""Where each slot's text stands in its grammar."""

# C rows with a grammar, W bytes of a mask

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.bad_words import BadWords
from model.batch import NO_TOKEN, Join, SamplingParams, StepOutput
from model.constraint import Matcher, MatchError, Narrower, mask_bytes
from model.thinking import Thoughts


@dataclass(slots=True, frozen=True)
class TokenMasks:
    """The tokens that some rows of a step may draw; the others may draw any."""

    rows_C: NDArray[np.int64]
    bits_CW: NDArray[np.uint8]
    """Bit i % 8 of byte i // 8 is 1 where token i is allowed."""


class SlotMatchers:
    """The matcher of every slot that has a grammar, and the mask of every slot without one whose tokens are listed."""

    def __init__(self, vocab_size: int) -> None:
        self._mask_bytes = mask_bytes(vocab_size)
        self._matchers: dict[int, Matcher] = {}
        self._failed: set[int] = set()
        """Slots that could not follow their grammar: all their tokens are forbidden, which ends them."""
        self._listed: dict[int, NDArray[np.uint8]] = {}
        """The bits of `allowed_token_ids`, by slot."""

    def join(self, joins: Sequence[Join]) -> None:
        """Take over these slots: with a grammar, from where the tokens generated so far have led."""
        for join in joins:
            self._matchers.pop(join.slot, None)
            self._failed.discard(join.slot)
            self._listed.pop(join.slot, None)
            if join.params.allowed_token_ids:
                self._listed[join.slot] = self._bits(join.params.allowed_token_ids)
            if join.constraint is None:
                continue
            try:
                generated = join.token_ids[join.num_prompt :]
                narrowers = _narrowers(join.params, join.constraint.tokens)
                self._matchers[join.slot] = join.constraint.start(generated, narrowers)
            except MatchError:
                self._failed.add(join.slot)

    def masks(self, slots: Sequence[int]) -> TokenMasks | None:
        """For the next token of the sequences in `slots`, one a row."""
        masked = self._matchers.keys() | self._failed | self._listed.keys()
        rows = [row for row, slot in enumerate(slots) if slot in masked]
        if not rows:
            return None
        bits_CW = np.zeros((len(rows), self._mask_bytes), dtype=np.uint8)
        first = bits_CW.ctypes.data
        for index, row in enumerate(rows):
            self._write(slots[row], bits_CW[index], first + index * self._mask_bytes)
        return TokenMasks(np.array(rows, dtype=np.int64), bits_CW)

    def of(self, slots: Sequence[int]) -> dict[int, Matcher]:
        """By row, for those of `slots` that follow a grammar."""
        if not self._matchers:
            return {}
        return {row: self._matchers[slot] for row, slot in enumerate(slots) if slot in self._matchers}

    def _bits(self, token_ids: Sequence[int]) -> NDArray[np.uint8]:
        bits_W, ids = np.zeros(self._mask_bytes, dtype=np.uint8), np.array(token_ids)
        np.bitwise_or.at(bits_W, ids >> 3, (1 << (ids & 7)).astype(np.uint8))
        return bits_W

    def _write(self, slot: int, bits_W: NDArray[np.uint8], address: int) -> None:
        if slot in self._failed:
            return
        if slot in self._listed:
            bits_W[:] = self._listed[slot]
            return
        try:
            self._matchers[slot].write_mask(bits_W, address)
        except MatchError:
            bits_W[:] = 0
            del self._matchers[slot]
            self._failed.add(slot)


def _narrowers(params: SamplingParams, tokens: Sequence[bytes]) -> list[Narrower]:
    """What a sequence's parameters forbid beside its grammar. The end of thoughts goes before a bad word."""
    thoughts = [] if params.thinking is None else [Thoughts(params.thinking, tokens)]
    return [*thoughts, *([BadWords(params.bad_words)] if params.bad_words else [])]


def take(matchers: Mapping[int, Matcher], output: StepOutput) -> None:
    """Go on by the tokens drawn in the rows of these matchers, and note in the output which texts are complete by them.

    A token that the grammar rejects becomes NO_TOKEN.
    """
    for row, matcher in matchers.items():
        token_id = output.token_ids[row]
        if token_id < 0:
            continue
        try:
            matcher.take([token_id])
        except MatchError:
            output.token_ids[row] = NO_TOKEN
            continue
        if matcher.is_complete:
            output.completed.add(row)
