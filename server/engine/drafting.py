"""Guesses of the next tokens, to be verified together in one step (prompt lookup, Saxena 2023).

Such a guess costs nothing to make: what followed the last few tokens where they stood before, in the request's
prediction or in the sequence itself. Verifying costs part of a step; how much, relative to a step without, was measured
at the start. A draw is a function of its position, so a guess is right exactly if it is what would have been drawn:
drafts change the speed of a text, never the text.
"""

from collections.abc import Sequence as Tokens
from dataclasses import dataclass

# What must have stood before for a guess to be made: fewer tokens find more, and more that is wrong.
NGRAM = 3
MAX_DRAFTS = 8
# More than this of a long context is not looked through.
MAX_INDEXED = 8192
# Tokens without a guess after one of which nothing was right; doubled each time, up to the second number.
FIRST_PAUSE, LONGEST_PAUSE = 2, 64
# How much of the estimate of a sequence's share of right guesses comes from its last step.
LEARNING_RATE = 0.25


class Record:
    """How good one kind of guess was for one sequence."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        """Estimated chance that a guess is right, given that the one before it was."""
        self._wait = 0
        self._pause = FIRST_PAUSE

    @property
    def is_paused(self) -> bool:
        """Whether there is to be no guess now."""
        return self._wait > 0

    def pause(self) -> None:
        """Make no guess for some tokens, twice as many each time until one is right again."""
        self._wait, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)

    def wait(self) -> None:
        """The sequence went on by a token."""
        self._wait = max(0, self._wait - 1)

    def learn(self, num_drafts: int, num_right: int) -> None:
        """The outcome of a guess, of which `num_drafts` tokens were tried."""
        # The guess after the last right one was a fair try; those after it were not.
        tried = min(num_right + 1, num_drafts)
        self.rate += LEARNING_RATE * (num_right / tried - self.rate)
        if num_right:
            self._pause = FIRST_PAUSE
        else:
            self.pause()


class Drafter:
    """Guesses for one sequence from its text, and how good they and those of a draft model were."""

    def __init__(self, prediction: Tokens[int], token_ids: Tokens[int]) -> None:
        """`token_ids`: the sequence so far."""
        # One text: the prediction, then the sequence.
        self._text = [*prediction, *token_ids[-MAX_INDEXED:]]
        self._num_predicted = len(prediction)
        self._place_after: dict[tuple[int, ...], int] = {}
        """What an n-gram was last followed by, as a place in the text."""
        self._num_indexed = NGRAM
        self._cursor = 0
        """Where the text would go on if it went on as guessed: at first where the prediction begins."""
        self.ngrams = Record(0.5)
        """Of guesses from the text and the prediction."""
        self.proposals = Record(0.7)
        """Of the draft model's guesses; somebody has chosen it because they are often right."""
        self._tried = self.ngrams
        self._is_predicted = False
        self.num_accepted = 0
        """Guesses from the prediction that were right."""
        self.num_rejected = 0
        """Those that were wrong, or came after a wrong one."""

    def extend(self, token_id: int) -> None:
        """The sequence went on by this token."""
        self._text.append(token_id)
        self._cursor += 1
        self.ngrams.wait()
        self.proposals.wait()

    @property
    def is_hopeful(self) -> bool:
        """Whether a guess would be made if the text ended here."""
        return not self.ngrams.is_paused and self._next_place() is not None

    def guess(self) -> list[int]:
        """Up to MAX_DRAFTS next tokens. If there are none, what is tried next is the draft model's."""
        place = None if self.ngrams.is_paused else self._next_place()
        if place is None:
            self._tried, self._is_predicted = self.proposals, False
            return []
        self._tried = self.ngrams
        self._cursor = place
        self._is_predicted = self._cursor < self._num_predicted
        if self._is_predicted:
            return self._text[self._cursor : min(self._cursor + MAX_DRAFTS, self._num_predicted)]
        # At the end of the text the guess goes on with itself, so that what repeats is guessed to repeat again.
        guess = self._text[self._cursor : self._cursor + MAX_DRAFTS]
        period = len(self._text) - self._cursor
        while len(guess) < MAX_DRAFTS:
            guess.append(guess[-period])
        return guess

    def learn(self, num_drafts: int, num_right: int) -> None:
        """The outcome of the last guess, of which `num_drafts` tokens were tried."""
        if self._is_predicted:
            self.num_accepted += num_right
            self.num_rejected += num_drafts - num_right
        self._tried.learn(num_drafts, num_right)

    def _next_place(self) -> int | None:
        """Where in the text the next token may stand already."""
        if self._goes_on_at(self._cursor):
            return self._cursor
        self._index()
        return self._place_after.get(self._last_tokens(len(self._text)))

    def _goes_on_at(self, place: int) -> bool:
        """Whether the text up to `place` ends as all of it does; a prediction may still be shorter than an n-gram."""
        length = min(place, NGRAM)
        return 0 < place < len(self._text) and self._text[place - length : place] == self._text[-length:]

    def _last_tokens(self, end: int) -> tuple[int, ...]:
        return tuple(self._text[end - NGRAM : end])

    def _index(self) -> None:
        """Note every n-gram that something follows, as far as that was not done."""
        for place in range(self._num_indexed, len(self._text)):
            self._place_after[self._last_tokens(place)] = place
        self._num_indexed = max(self._num_indexed, len(self._text))


@dataclass(slots=True, frozen=True)
class StepCosts:
    """How long a step takes by its number of tokens, relative to one token; measured at a few sizes."""

    sizes: tuple[int, ...]
    costs: tuple[float, ...]

    @property
    def largest(self) -> int:
        """Beyond this many tokens costs were not measured."""
        return self.sizes[-1]

    def at(self, num_tokens: int) -> float:
        """The cost, on straight lines through the sizes that were measured."""
        for index in range(1, len(self.sizes)):
            if num_tokens <= self.sizes[index]:
                low, high = self.sizes[index - 1], self.sizes[index]
                share = (num_tokens - low) / (high - low)
                return self.costs[index - 1] + share * (self.costs[index] - self.costs[index - 1])
        if len(self.sizes) == 1:
            return self.costs[0]
        slope = (self.costs[-1] - self.costs[-2]) / (self.sizes[-1] - self.sizes[-2])
        return self.costs[-1] + max(0.0, slope) * (num_tokens - self.largest)


UNKNOWN_COSTS = StepCosts((1,), (1.0,))
"""Nothing is known of steps with more than one token: no drafts are tried, and no prompt is held back."""
