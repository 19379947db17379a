"""Reads GBNF, as llama.cpp's grammars/README.md describes it but for its tokens, into expressions."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NoReturn

Ranges = tuple[tuple[int, int], ...]
"""Code points, both ends included; in order and apart."""

# What a text can hold: no halves of UTF-16 pairs.
_ALL_CHARS: Ranges = ((0, 0xD7FF), (0xE000, 0x10FFFF))
# So that no expression is deeper than Python's stack, whatever walks through it.
_MAX_GROUPS = 32
_MAX_SUFFIXES = 3
_MAX_TIMES = 100_000

_BLANK = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_BLANK_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_DEFINED_AS = re.compile(r"[ \t]*::=")
_TIMES = re.compile(
    r"\{[ \t]*(?:(?P<least>[0-9]{1,9})[ \t]*(?P<comma>,?)|(?P<none>,))[ \t]*(?P<most>[0-9]{0,9})[ \t]*\}"
)
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([nrt\\\"\[\]^-]))")
_LETTERS = {"n": "\n", "r": "\r", "t": "\t"}
_NO_PART = "expected a literal, a class, a group or the name of a rule"
_SUFFIXES = {"*": (0, None), "+": (1, None), "?": (0, 1)}


class GbnfError(ValueError):
    """The grammar can't be read; the message is for the person who wrote it."""


@dataclass(frozen=True, slots=True)
class Char:
    """One character of a set."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Sequence:
    """One part after the other; without parts, the empty text."""

    parts: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """Any one of the options."""

    options: tuple["Expression", ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """An expression again and again; `most` is never 0, and None without a bound."""

    of: "Expression"
    least: int
    most: int | None


@dataclass(frozen=True, slots=True)
class Ref:
    """The rule of this name."""

    name: str


@dataclass(frozen=True, slots=True)
class Lexeme:
    """An expression that is looked at as one; a grammar as it is read has none."""

    of: "Expression"


Expression = Char | Sequence | Choice | Repeat | Ref | Lexeme
Rules = dict[str, Expression]


def parse(text: str) -> Rules:
    """The rules, in their order; there is one called `root`. Raises GbnfError, which names line and column."""
    return _Parser(text).rules()


class _Parser:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0
        self.refs: dict[str, int] = {}
        """Where each name is first referred to."""

    def rules(self) -> Rules:
        rules: Rules = {}
        self.skip(_BLANK_LINES)
        while self.at < len(self.text):
            start = self.at
            name = self.expect(_NAME, "the name of a rule")[0]
            self.expect(_DEFINED_AS, "::= after the name of a rule (Lark's notation needs a rule called start)")
            if name in rules:
                self.fail(f"rule {name} is defined twice", start)
            self.skip(_BLANK_LINES)
            rules[name] = self.choice(_BLANK)
            if self.at < len(self.text) and self.text[self.at] not in "\r\n":
                is_token = self.text.startswith(("<", "!<"), self.at)
                reason = "tokens can be named in Lark's notation alone, as <[12]>" if is_token else _NO_PART
                self.fail(reason)
            self.skip(_BLANK_LINES)
        for name, start in self.refs.items():
            if name not in rules:
                self.fail(f"rule {name} is not defined", start)
        if "root" not in rules:
            raise GbnfError("there is no rule called root (of GBNF) or start (of Lark)")
        return rules

    def choice(self, blank: re.Pattern[str]) -> Expression:
        """Options between bars. `blank` may stand between what belongs to one: within a group, line breaks too."""
        options = [self.sequence(blank)]
        while self.next_option():
            options.append(self.sequence(blank))
        return options[0] if len(options) == 1 else Choice(tuple(options))

    def next_option(self) -> bool:
        """Go on behind a bar, which may stand at the start of a line."""
        start = self.at
        self.skip(_BLANK_LINES)
        if self.take("|"):
            self.skip(_BLANK_LINES)
            return True
        self.at = start
        return False

    def sequence(self, blank: re.Pattern[str]) -> Expression:
        parts: list[Expression] = []
        while (part := self.part()) is not None:
            self.skip(blank)
            parts.append(self.repeated(part, blank))
        return parts[0] if len(parts) == 1 else Sequence(tuple(parts))

    def repeated(self, part: Expression, blank: re.Pattern[str]) -> Expression:
        num_suffixes = 0
        while (times := self.times()) is not None:
            least, most = times
            part = Sequence(()) if most == 0 else Repeat(part, least, most)
            self.skip(blank)
            num_suffixes += 1
            if num_suffixes > _MAX_SUFFIXES:
                self.fail(f"more than {_MAX_SUFFIXES} repetitions of one another")
        return part

    def part(self) -> Expression | None:
        if self.take('"'):
            return self.literal()
        if self.take("["):
            return Char(self.char_class())
        if self.take("("):
            return self.group()
        if self.take("."):
            return Char(_ALL_CHARS)
        if (name := _NAME.match(self.text, self.at)) is None:
            return None
        self.refs.setdefault(name[0], self.at)
        self.at = name.end()
        return Ref(name[0])

    def group(self) -> Expression:
        if self.depth == _MAX_GROUPS:
            self.fail(f"groups are nested more than {_MAX_GROUPS} deep")
        self.depth += 1
        self.skip(_BLANK_LINES)
        inside = self.choice(_BLANK_LINES)
        self.skip(_BLANK_LINES)
        if not self.take(")"):
            self.fail("expected ')'")
        self.depth -= 1
        return inside

    def literal(self) -> Expression:
        codes = list(self.codes_until('"'))
        chars = tuple(Char(((code, code),)) for code in codes)
        return chars[0] if len(chars) == 1 else Sequence(chars)

    def char_class(self) -> Ranges:
        start = self.at - 1
        is_negated = self.take("^")
        ranges = []
        codes = self.codes_until("]")
        for first in codes:
            last = first
            if self.text[self.at : self.at + 1] == "-" and self.text[self.at + 1 : self.at + 2] != "]":
                self.at += 1
                last = next(codes, first)
            if last < first:
                self.fail("a range ends before it begins", start)
            ranges.append((first, last))
        chars = _without(_ALL_CHARS, _merged(ranges)) if is_negated else _without(_ALL_CHARS, _gaps(_merged(ranges)))
        if not chars:
            self.fail("the class allows no character", start)
        return chars

    def codes_until(self, end: str) -> Iterator[int]:
        """Code points up to the delimiter, which is left behind."""
        start = self.at - 1
        while not self.take(end):
            char = self.text[self.at : self.at + 1]
            if char == "":
                self.fail(f"expected {end}", start)
            if char != "\\":
                self.check(ord(char))
                self.at += 1
                yield ord(char)
            elif (escape := _ESCAPE.match(self.text, self.at)) is None:
                self.fail('unknown escape; there are \\n \\r \\t \\\\ \\" \\[ \\] \\^ \\- \\xHH \\uHHHH \\UHHHHHHHH')
            else:
                *codes, letter = escape.groups()
                code = ord(_LETTERS.get(letter, letter)) if letter else int(next(filter(None, codes)), 16)
                self.check(code)
                self.at = escape.end()
                yield code

    def check(self, code: int) -> None:
        if not any(first <= code <= last for first, last in _ALL_CHARS):
            self.fail("no character has this number")

    def times(self) -> tuple[int, int | None] | None:
        char = self.text[self.at : self.at + 1]
        if char in _SUFFIXES and char:
            self.at += 1
            return _SUFFIXES[char]
        if char != "{":
            return None
        start = self.at
        found = self.expect(_TIMES, "{m}, {m,}, {,n} or {m,n}")
        if not found["comma"] and not found["none"] and found["most"]:
            self.fail("expected a comma between two counts", start)
        least = int(found["least"] or 0)
        most = int(found["most"]) if found["most"] else None if found["comma"] or found["none"] else least
        if max(least, most or 0) > _MAX_TIMES or (most is not None and most < least):
            self.fail(f"counts go up, to {_MAX_TIMES} at most", start)
        return least, most

    def take(self, char: str) -> bool:
        is_there = self.text.startswith(char, self.at)
        self.at += len(char) * is_there
        return is_there

    def expect(self, pattern: re.Pattern[str], what: str) -> re.Match[str]:
        found = pattern.match(self.text, self.at)
        if found is None:
            self.fail(f"expected {what}")
        self.at = found.end()
        return found

    def skip(self, blank: re.Pattern[str]) -> None:
        found = blank.match(self.text, self.at)
        assert found is not None  # it matches nothing as well
        self.at = found.end()

    def fail(self, reason: str, at: int | None = None) -> NoReturn:
        before = self.text[: self.at if at is None else at]
        line, column = before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1
        raise GbnfError(f"in line {line}, column {column}: {reason}")


def _merged(ranges: list[tuple[int, int]]) -> Ranges:
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], max(last, joined[-1][1]))
        else:
            joined.append((first, last))
    return tuple(joined)


def _gaps(ranges: Ranges) -> Ranges:
    """All numbers of code points that are not in these."""
    firsts = [0, *(last + 1 for _, last in ranges)]
    lasts = [*(first - 1 for first, _ in ranges), 0x10FFFF]
    return tuple((first, last) for first, last in zip(firsts, lasts, strict=True) if first <= last)


def _without(ranges: Ranges, others: Ranges) -> Ranges:
    kept = []
    for first, last in ranges:
        for gap_first, gap_last in _gaps(others):
            if max(first, gap_first) <= min(last, gap_last):
                kept.append((max(first, gap_first), min(last, gap_last)))
    return tuple(kept)
