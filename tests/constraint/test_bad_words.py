"""Sequences of tokens are kept out of a text, whatever its grammar, as long as there is another way to go on."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.bad_words import BadWords
from model.constraint import mask_bytes
from tests.constraint.walks import BYTES, allowed, compiled

LETTERS = [BYTES.tokens.index(letter) for letter in (b"a", b"b", b"c")]
TOKENS = st.lists(st.sampled_from(LETTERS), min_size=1, max_size=3).map(tuple)
FREE = compiled("regex", "[abc]*")


def holds(text: list[int], word: tuple[int, ...]) -> bool:
    return any(tuple(text[at : at + len(word)]) == word for at in range(len(text)))


@given(st.lists(TOKENS, min_size=1, max_size=4), st.integers(0, 2**32 - 1), st.integers(0, 20))
@settings(max_examples=150, deadline=None)
def test_no_bad_word_is_ever_complete(words: list[tuple[int, ...]], seed: int, cut: int) -> None:
    rng, text, matcher = np.random.default_rng(seed), [], FREE.start((), [BadWords(words)])
    for position in range(20):
        if position == cut:  # taken up again, it goes on as it went
            matcher = FREE.start(text, [BadWords(words)])
        choices = sorted(allowed(matcher) & set(LETTERS))
        if not choices:
            assert all(any(holds([*text, letter], word) for word in words) for letter in LETTERS)
            return
        assert all(letter in choices or any(holds([*text, letter], word) for word in words) for letter in LETTERS)
        text.append(int(rng.choice(choices)))
        matcher.take(text[-1:])
    assert not any(holds(text, word) for word in words)


def test_a_grammar_that_allows_nothing_else_gets_its_token() -> None:
    a, b, _ = LETTERS
    matcher = compiled("regex", "ab").start((), [BadWords([(a,), (a, b)])])
    for letter in (a, b):
        assert allowed(matcher) == {letter}
        matcher.take([letter])


def test_words_that_end_alike_each_forbid_for_themselves() -> None:
    a, b, c = LETTERS
    words = BadWords([(a, c), (b, c)])
    for before, is_free in ((a, False), (b, False), (c, True)):
        words.take(before)
        row = np.full(mask_bytes(len(BYTES.tokens)), 0xFF, dtype=np.uint8)
        words.narrow(row)
        assert bool(row[c >> 3] >> (c & 7) & 1) == is_free
