"""Compiled grammars: which tokens may come next. The one file that knows llguidance (no torch)."""

import json
import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NoReturn, Protocol

import numpy as np
from llguidance import LLMatcher, LLParserLimits, LLTokenizer, regex_to_lark
from numpy.typing import NDArray

from model.grammar import Grammar, Vocabulary, json_term
from model.schema_fault import clean, find_fault, in_our_words

# Below the library's own, so that what is let in costs little in any step. With a tenth of the fuel the worst mask of
# an exploding regular expression took 50 ms where it had taken a second; with half the items in a row the worst of an
# ambiguous grammar took 24 ms where it had taken 370. An object may still have some 250 optional properties.
_LIMITS = LLParserLimits(
    initial_lexer_fuel=200_000,
    step_lexer_fuel=20_000,
    step_max_items=10_000,
    max_items_in_row=1_000,
    max_lexer_states=50_000,
    max_grammar_size=100_000,
    verbose_errors=False,  # the verbose ones print the whole grammar
)

# Tokens whose texts match one of these are judged all at once where a grammar allows whatever does: without the second
# and third the masks of a counted `[a-z ]` took more than twice as long; without the first those of counted words did.
_SLICES = ["[a-z]{1,16}", "[a-z ]{1,10}", "[a-zA-Z0-9 ]{1,10}", *LLTokenizer.general_slices()]

# Where in a grammar the library sees a fault.
_PLACE = re.compile(r"(?:at )?(\d+)\((\d+)\): ")

# Texts that are begun at the door, and how far: enough to meet what is likely to come.
_NUM_TRIALS = 4
_TRIAL_STEPS = 16


class GrammarError(ValueError):
    """The grammar can't be used; the message is for the person who wrote it."""


class MatchError(Exception):
    """Following the grammar failed in the middle of a text: a token that it forbids, or a limit that it exceeds."""


class DeadEnd(MatchError):
    """No token can follow, and the text may not end."""


class Narrower(Protocol):
    """What forbids some tokens that the grammar of a text allows."""

    def take(self, token_id: int) -> None:
        """Go on by a token."""

    def narrow(self, row_W: NDArray[np.uint8]) -> None:
        """Take tokens out of a mask of allowed tokens, but never all."""


class Matcher:
    """One text that is being written, and what its grammar allows next."""

    def __init__(self, constraint: "Constraint", matcher: LLMatcher, narrowers: Sequence[Narrower]) -> None:
        self.constraint = constraint
        self._matcher = matcher
        self._narrowers = narrowers

    def write_mask(self, row_W: NDArray[np.uint8], address: int) -> None:
        """Write which tokens may come next, whole: bit i % 8 of byte i // 8 for token i. Raises MatchError.

        `address` is that of `row_W`, contiguous: to find it out takes twice as long as to write a simple mask.
        Where the text may end all end-of-sequence tokens are allowed; where it must, nothing else is.
        """
        self._matcher.unsafe_compute_mask_ptr(address, row_W.nbytes)
        if self._matcher.is_error():
            self._fail()
        for narrower in self._narrowers:
            narrower.narrow(row_W)

    def take(self, token_ids: Sequence[int]) -> None:
        """Go on by these tokens. Raises MatchError."""
        if not self._matcher.consume_tokens(list(token_ids)) and self._matcher.is_error():
            self._fail()
        for narrower in self._narrowers:
            for token_id in token_ids:
                narrower.take(token_id)

    @property
    def is_complete(self) -> bool:
        """Whether the text has ended: by an end-of-sequence token, or since nothing can follow."""
        return self._matcher.is_stopped()

    def _fail(self) -> NoReturn:
        # What the copies share may be what is full: the next request gets a new one.
        self.constraint.is_spent = True
        error = _first_line(self._matcher.get_error())
        raise (DeadEnd if error.startswith("NoExtension") else MatchError)(error)


class Constraint:
    """A compiled grammar, from which any number of texts start."""

    def __init__(self, matcher: LLMatcher, vocabulary: Vocabulary, warnings: list[str]) -> None:
        self.eos_ids = frozenset(vocabulary.eos_ids)
        self.warnings = warnings
        self.is_spent = False
        """Whether a limit was met in following it: compile it again for the next request."""
        self._matcher = matcher
        self.tokens = vocabulary.tokens
        """What each token adds to a text."""

    def start(self, token_ids: Sequence[int] = (), narrowers: Sequence[Narrower] = ()) -> Matcher:
        """A text that begins with these tokens. Raises MatchError if the grammar forbids them."""
        matcher = Matcher(self, self._matcher.deep_copy(), narrowers)
        if token_ids:
            matcher.take(token_ids)
        return matcher


class Compiler:
    """Compiles grammars for one model's tokens."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._num_tokens = len(vocabulary.tokens)
        self._tokenizer = LLTokenizer(
            _Tokens(vocabulary),  # type: ignore[arg-type]  # what the library's own wrapper offers, without a base class
            n_vocab=len(vocabulary.tokens),
            eos_token=list(vocabulary.eos_ids),
            slices=_SLICES,
        )

    def compile(self, grammar: Grammar) -> Constraint:
        """Raises GrammarError. The API's check calls this as the worker does, so nothing fails there first."""
        matcher = LLMatcher(self._tokenizer, _source(grammar), log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise GrammarError(self._explain(grammar, matcher.get_error()))
        return Constraint(matcher, self._vocabulary, [in_our_words(text) for text in matcher.get_grammar_warnings()])

    def try_out(self, constraint: Constraint) -> None:
        """Write beginnings of texts, to find what compiles and can't be followed. Raises GrammarError."""
        for seed in range(_NUM_TRIALS):
            try:
                self._begin(constraint.start(), np.random.default_rng(seed))
            except DeadEnd:
                raise GrammarError("no text matches it: a rule needs itself, or what no token can spell") from None
            except MatchError as error:
                raise GrammarError(f"it is too complex to follow: {error}") from None

    def _begin(self, matcher: Matcher, choices: np.random.Generator) -> None:
        row_W = np.zeros(mask_bytes(self._num_tokens), dtype=np.uint8)
        for _ in range(_TRIAL_STEPS):
            if matcher.is_complete:
                return
            matcher.write_mask(row_W, row_W.ctypes.data)
            allowed = np.flatnonzero(np.unpackbits(row_W, count=self._num_tokens, bitorder="little"))
            matcher.take([int(choices.choice(allowed))])

    def _explain(self, grammar: Grammar, error: str) -> str:
        if grammar.kind != "json_schema":
            place = _PLACE.match(error) if grammar.kind == "lark" else None
            where = "" if place is None else f"in line {place[1]}, column {place[2]}: "
            return where + _first_line(error[place.end() if place else 0 :])

        def fails(schema: object) -> bool:
            source = _json_source(schema, grammar.is_lenient)
            return LLMatcher(self._tokenizer, source, log_level=0, limits=_LIMITS).is_error()

        reason = _first_line(error).rpartition("failed to compile JSON schema: ")[2]
        return clean(f"at {find_fault(json.loads(grammar.text), fails)}: {in_our_words(reason)}")


def mask_bytes(num_tokens: int) -> int:
    """Bytes of one mask: the library writes whole words of 32 bits."""
    return -(-num_tokens // 32) * 4


class _Tokens:
    """What the library asks of a tokenizer."""

    is_tokenizer_wrapper = True

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.tokens = vocabulary.tokens
        self.special_token_ids = vocabulary.special_ids
        self.eos_token_id = vocabulary.eos_ids[0]
        self.bos_token_id: int | None = None

    def __call__(self, text: bytes) -> list[int]:
        # Asked where a grammar forces the next bytes, which ours never do.
        raise AssertionError("a grammar forces bytes")


# Where a grammar forces the next bytes the library would allow one spelling of them alone; so all tokens that spell
# them are allowed, and the model takes those it knows. Stands at the end, where it moves no line of the grammar.
_OPTIONS = '\n%llguidance {"no_forcing": true}\n'


def _source(grammar: Grammar) -> str:
    """The grammar in the library's notation, which is a kind of Lark's."""
    match grammar.kind:
        case "json_schema":
            return _json_source(json.loads(grammar.text), grammar.is_lenient)
        case "regex":
            # Digits are 0 to 9, as everyone means who writes \d; the library's own would be those of all scripts.
            pattern = regex_to_lark(_without_anchors(grammar.text), use_ascii="d")
            return (f"start: /{pattern}/" if pattern else 'start: ""') + _OPTIONS
        case "lark":
            return grammar.text + _OPTIONS


def _json_source(schema: object, is_lenient: bool) -> str:
    return f"start: {json_term(schema, is_lenient)}" + _OPTIONS


def _without_anchors(regex: str) -> str:
    """A regular expression is matched as a whole, so the anchors that say the same are left out."""
    regex = regex.removeprefix("^")
    num_backslashes = len(regex[:-1]) - len(regex[:-1].rstrip("\\"))
    return regex[:-1] if regex.endswith("$") and num_backslashes % 2 == 0 else regex


def _first_line(error: str) -> str:
    """The sentence in an error whose other lines quote the grammar."""
    return next(_sentences(error), "it can't be compiled")


def _sentences(error: str) -> Iterator[str]:
    lines = error.splitlines()
    # The regex parser's message: "regex parse error:", the pattern, a line with ^ below the fault, "error: ...".
    for line, below in pairwise(lines):
        if below.startswith("error: ") and set(line) <= {" ", "^"} and "^" in line:
            reason, position = below.removeprefix("error: "), line.index("^") - 3
            yield clean(f"{reason}, at character {position} of the regular expression")
    yield from (clean(line) for line in lines if line.strip())
