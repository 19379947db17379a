"""Texts that a grammar allows, each token drawn at random among the allowed, as a model with random weights does."""

from collections.abc import Sequence

import numpy as np

from model.constraint import Compiler, Constraint, Matcher, mask_bytes
from model.grammar import Grammar, Vocabulary
from server.text.tokenizer import Tokenizer
from tests.fakes import byte_tokenizer


def vocabulary_of(tokenizer: Tokenizer, eos_ids: Sequence[int]) -> Vocabulary:
    tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    return Vocabulary(tokens, sorted(tokenizer.special_ids), list(eos_ids))


BYTES = vocabulary_of(byte_tokenizer(), [257, 259])
COMPILER = Compiler(BYTES)


def compiled(kind: str, text: str, *, is_lenient: bool = False, compiler: Compiler = COMPILER) -> Constraint:
    return compiler.compile(Grammar(kind, text, is_lenient))


def allowed(matcher: Matcher, vocabulary: Vocabulary = BYTES) -> set[int]:
    """The tokens that may come next."""
    row = np.full(mask_bytes(len(vocabulary.tokens)), 0xA5, dtype=np.uint8)
    matcher.write_mask(row, row.ctypes.data)
    return set(np.flatnonzero(np.unpackbits(row, count=len(vocabulary.tokens), bitorder="little")).tolist())


def write(
    constraint: Constraint, seed: int, vocabulary: Vocabulary = BYTES, max_tokens: int = 400, likes_end: float = 0.2
) -> tuple[bytes, bool]:
    """A random text, and whether it is complete. Where it may end it does with this probability."""
    rng, matcher, text = np.random.default_rng(seed), constraint.start(), b""
    for _ in range(max_tokens):
        if matcher.is_complete:
            return text, True
        choices = allowed(matcher, vocabulary)
        ends = choices & set(vocabulary.eos_ids)
        assert choices, "nothing can follow"
        assert ends in (set(), set(vocabulary.eos_ids)), "one end-of-sequence token is as good as another"
        if ends and (ends == choices or rng.random() < likes_end):
            token_id = int(rng.choice(sorted(ends)))
        else:
            token_id = int(rng.choice(sorted(choices - ends)))
            assert token_id not in vocabulary.special_ids
            text += vocabulary.tokens[token_id]
        matcher.take([token_id])
    return text, matcher.is_complete
