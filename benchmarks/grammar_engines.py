"""Two grammar engines behind one interface: llguidance as the server uses it, and xgrammar."""

import random
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from model.constraint import Compiler, Constraint, GrammarError, Matcher, MatchError, mask_bytes
from model.gbnf import GbnfError, as_lark
from model.grammar import Grammar, Vocabulary

BUNDLED = Path(__file__).parent.parent / "model" / "demo" / "bundled"


class Refused(Exception):
    """The engine says that it can't use this grammar."""


class Text(Protocol):
    """A text that is being written."""

    def write_mask(self, row_W: NDArray[np.uint8], address: int) -> None: ...

    def take(self, token_id: int) -> bool:
        """Whether the grammar allows it."""
        ...

    @property
    def is_complete(self) -> bool: ...


class Engine(Protocol):
    """Compiles grammars for one vocabulary."""

    def compile(self, grammar: Grammar) -> Any:
        """Raises Refused."""
        ...

    def start(self, compiled: Any) -> Text: ...


class Llguidance:
    """`model/constraint.py`, with its limits."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._compiler = Compiler(vocabulary)

    def compile(self, grammar: Grammar) -> Constraint:
        try:
            if grammar.kind == "lark":
                grammar = msgspec.structs.replace(grammar, text=as_lark(grammar.text))
            return self._compiler.compile(grammar)
        except (GrammarError, GbnfError) as error:
            raise Refused(str(error)) from None

    def start(self, compiled: Constraint) -> Text:
        return _LlguidanceText(compiled.start())


class _LlguidanceText:
    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher
        self.write_mask = matcher.write_mask

    def take(self, token_id: int) -> bool:
        try:
            self._matcher.take([token_id])
        except MatchError:
            return False
        return True

    @property
    def is_complete(self) -> bool:
        return self._matcher.is_complete


class Xgrammar:
    """With its own cache of grammars, any whitespace, and objects as open as their schemas say."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        import xgrammar

        tokenizer = xgrammar.TokenizerInfo(vocabulary.tokens, stop_token_ids=list(vocabulary.eos_ids))
        self._compiler = xgrammar.GrammarCompiler(tokenizer, max_threads=2)
        self._matcher = xgrammar.GrammarMatcher

    def compile(self, grammar: Grammar) -> Any:
        try:
            match grammar.kind:
                case "json_schema":
                    return self._compiler.compile_json_schema(grammar.text, strict_mode=False)
                case "regex":
                    return self._compiler.compile_regex(grammar.text)
                case "lark":
                    return self._compiler.compile_grammar(grammar.text)
        except (RuntimeError, ValueError) as error:
            raise Refused(str(error)) from None

    def start(self, compiled: Any) -> Text:
        return _XgrammarText(self._matcher(compiled))


class _XgrammarText:
    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def write_mask(self, row_W: NDArray[np.uint8], address: int) -> None:
        self._matcher.fill_next_token_bitmask(row_W.view(np.int32)[None], 0)

    def take(self, token_id: int) -> bool:
        return bool(self._matcher.accept_token(token_id))

    @property
    def is_complete(self) -> bool:
        return bool(self._matcher.is_terminated())


ENGINES: dict[str, type[Llguidance] | type[Xgrammar]] = {"llguidance": Llguidance, "xgrammar": Xgrammar}


def byte_vocabulary() -> Vocabulary:
    """A token for each byte, and one that ends."""
    return Vocabulary([*(bytes([byte]) for byte in range(256)), b"</s>"], [256], [256])


def bundled_vocabulary() -> Vocabulary:
    from server.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(BUNDLED)
    tokens = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
    assert tokenizer.eos_token_id is not None
    return Vocabulary(tokens, sorted(tokenizer.special_ids), [tokenizer.eos_token_id])


def made_up_vocabulary(size: int) -> Vocabulary:
    """Bytes, numbers, indentations, JSON's pieces, and words of syllables as byte-level BPE has them."""
    rng = random.Random(0)
    pieces = ['{"', '"}', '":', '",', '": "', '", "', '"], "', "}}", "},", "[]", "{}", '\\"', "\\n", "://", "();", "=="]
    pieces += [str(number) for number in range(10, 1000)] + [" " * count for count in range(2, 32)]
    tokens = dict.fromkeys([*(bytes([byte]) for byte in range(256)), *(piece.encode() for piece in pieces)])
    vowels, ends = ("a", "e", "i", "o", "u", "ei", "ü"), ("", "n", "r", "s")
    syllables = [a + b + c for a in "bcdfghklmnprstvw" for b in vowels for c in ends]
    while len(tokens) < size - 1:
        word = "".join(rng.choices(syllables, k=rng.choice((1, 2, 2, 3, 3, 4))))
        tokens[rng.choice((word, f" {word}", f" {word}", word.title(), f" {word.title()}", f"_{word}")).encode()] = None
    return Vocabulary([*tokens, b"</s>"], [size - 1], [size - 1])


def accepts(engine: Engine, compiled: Any, text: bytes) -> bool:
    """Whether a grammar on the tokens of `byte_vocabulary` takes the text and lets it end."""
    written = engine.start(compiled)
    for byte in text:
        if written.is_complete or not written.take(byte):
            return False
    return written.is_complete or written.take(256)


def new_row(vocabulary: Vocabulary) -> NDArray[np.uint8]:
    return np.zeros(mask_bytes(len(vocabulary.tokens)), dtype=np.uint8)
