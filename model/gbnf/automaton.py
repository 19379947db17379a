"""One automaton for all lexemes of a grammar: which texts they share the beginnings of.

Its states are positions, as of Glushkov (1961): each character of an expression is one. Repetitions with a count are
taken for repetitions without: then a lexeme may seem too long that isn't, never the other way round.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from model.gbnf.syntax import Char, Choice, Expression, Lexeme, Ref, Repeat, Rules
from model.gbnf.syntax import Sequence as Parts


class Effort:
    """What may still be spent on a grammar: at first some 50 ms. llama.cpp's grammar of C takes half of that."""

    class Exhausted(Exception):  # no error: the grammar is used as it is
        """All is spent."""

    def __init__(self, left: int = 40_000) -> None:
        self.left = left

    def spend(self, amount: int) -> None:
        """Raises Exhausted."""
        self.left -= amount
        if self.left < 0:
            raise Effort.Exhausted


class _Span(NamedTuple):
    """Of an expression: the positions at which its texts begin and end, and whether one is empty."""

    first: frozenset[int]
    last: frozenset[int]
    can_be_empty: bool


_EMPTY = _Span(frozenset(), frozenset(), True)


class Automaton:
    """The positions of some expressions. Sets of characters are integers: a bit for each class of alike ones."""

    def __init__(self, expressions: Sequence[Expression], rules: Rules, effort: Effort) -> None:
        self._rules = rules
        self._effort = effort
        self._chars: list[Char] = []
        """Of each position."""
        self._next: list[set[int]] = []
        """Of each position, those that may follow."""
        self._owners: list[int] = []
        self._spans = []
        for owner, expression in enumerate(expressions):
            self._spans.append(self._span(expression))
            self._owners += [owner] * (len(self._chars) - len(self._owners))
        alphabet = self._alphabet()
        self._sets = [alphabet[char] for char in self._chars]

    def begin(self, number: int) -> tuple[int, bool]:
        """With which characters the texts of an expression begin, and whether one is empty."""
        span = self._spans[number]
        return self._set_of(span.first), span.can_be_empty

    def too_long(self, follow: Sequence[int]) -> set[int]:
        """Expressions that go on where one of them, after which these characters may come, has ended."""
        wrong = set[int]()
        ends = {position for span in self._spans for position in span.last}
        waiting = self._steps({position for span in self._spans for position in span.first})
        seen = set(waiting)
        while waiting:
            state = waiting.pop()
            following = set().union(*(self._next[position] for position in state))
            self._effort.spend(1 + len(state) + len(following))
            after = 0
            for position in state & ends:
                after |= follow[self._owners[position]]
            wrong |= {self._owners[position] for position in following if self._sets[position] & after}
            for reached in self._steps(following):
                if reached not in seen:
                    seen.add(reached)
                    waiting.append(reached)
        return wrong

    def _steps(self, following: Iterable[int]) -> list[frozenset[int]]:
        """The states that are reached by a character, from where these positions may follow."""
        states: list[tuple[int, frozenset[int]]] = []
        for position in following:
            chars, here = self._sets[position], frozenset((position,))
            split = []
            for held, state in states:
                self._effort.spend(1)
                if held & chars:
                    split.append((held & chars, state | here))
                if held & ~chars:
                    split.append((held & ~chars, state))
                chars &= ~held
            states = [*split, (chars, here)] if chars else split
        return [state for _, state in states]

    def _set_of(self, positions: Iterable[int]) -> int:
        chars = 0
        for position in positions:
            chars |= self._sets[position]
        return chars

    def _span(self, expression: Expression) -> _Span:
        self._effort.spend(1)
        match expression:
            case Char():
                self._chars.append(expression)
                self._next.append(set())
                here = frozenset((len(self._chars) - 1,))
                return _Span(here, here, False)
            case Ref(name):
                return self._span(self._rules[name])
            case Choice(options):
                firsts, lasts, can_be_empty = zip(*map(self._span, options), strict=True)
                return _Span(frozenset().union(*firsts), frozenset().union(*lasts), any(can_be_empty))
            case Repeat(of, least, most):
                span = self._span(of)
                if most != 1:
                    self._connect(span.last, span.first)
                return span._replace(can_be_empty=span.can_be_empty or least == 0)
            case Parts(parts):
                whole = _EMPTY
                for part in parts:
                    span = self._span(part)
                    self._connect(whole.last, span.first)
                    whole = _Span(
                        whole.first | span.first if whole.can_be_empty else whole.first,
                        whole.last | span.last if span.can_be_empty else span.last,
                        whole.can_be_empty and span.can_be_empty,
                    )
                return whole
            case Lexeme(of):
                return self._span(of)

    def _connect(self, lasts: frozenset[int], firsts: frozenset[int]) -> None:
        self._effort.spend(len(lasts) * len(firsts))
        for last in lasts:
            self._next[last] |= firsts

    def _alphabet(self) -> dict[Char, int]:
        """The sets: between two neighbouring borders all characters are alike, and have one bit."""
        distinct = set(self._chars)
        borders = sorted({border for char in distinct for first, last in char.ranges for border in (first, last + 1)})
        numbers = {border: number for number, border in enumerate(borders)}
        alphabet = {}
        for char in distinct:
            self._effort.spend(len(char.ranges))
            bits = ((1 << numbers[last + 1]) - (1 << numbers[first]) for first, last in char.ranges)
            alphabet[char] = sum(bits)
        return alphabet
