"""Writes a grammar that was read as GBNF in Lark's notation."""

import re
from collections.abc import Iterable
from functools import partial
from itertools import groupby, starmap

from model.gbnf.lexemes import find_lexemes
from model.gbnf.syntax import Char, Choice, Expression, Lexeme, Ranges, Ref, Repeat, Rules, Sequence, parse

# Where Lark's notation begins; GBNF begins with `root`.
_LARK_START = re.compile(r"^[ \t]*(?:%llguidance\b|[?!]?start(?:\.\d+)?(?:\[[^\]\n]*\])?[ \t]*:(?!:=))", re.MULTILINE)


def as_lark(text: str) -> str:
    """A grammar of either notation, in Lark's. Raises GbnfError for GBNF that can't be read."""
    return text if _LARK_START.search(text) else lark_from_gbnf(text)


def lark_from_gbnf(text: str) -> str:
    """The grammar in Lark's notation. Raises GbnfError, which names line and column."""
    rules = parse(text)
    return _Writer(rules).write(find_lexemes(rules))


class _Writer:
    """Lexemes become terminals, and rules that are part of one too."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.numbers = {name: number for number, name in enumerate(rules)}
        self.names: dict[Lexeme, str] = {}
        self.in_terminals: dict[str, str] = {}
        """Of each rule that is part of a terminal, its name there."""
        self.lines: list[str] = []

    def write(self, parts: Rules) -> str:
        for name, part in parts.items():
            self.lines.append(f"{self._rule(name)}: {self._written(part)}")
        return "\n".join(self.lines)

    def _rule(self, name: str) -> str:
        return "start" if name == "root" else f"rule-{self.numbers[name]}"

    def _terminal(self, lexeme: Lexeme) -> str:
        if lexeme not in self.names:
            name = self.names[lexeme] = f"LEXEME-{len(self.names)}"
            self.lines.append(f"{name}: {self._written(lexeme.of, is_terminal=True)}")
        return self.names[lexeme]

    def _rule_in_terminal(self, name: str) -> str:
        if name not in self.in_terminals:
            self.in_terminals[name] = f"RULE-{self.numbers[name]}"
            self.lines.append(f"{self.in_terminals[name]}: {self._written(self.rules[name], is_terminal=True)}")
        return self.in_terminals[name]

    def _written(self, part: Expression, *, is_terminal: bool = False) -> str:
        written = partial(self._written, is_terminal=is_terminal)
        match part:
            case Lexeme():
                return self._terminal(part)
            case Char(ranges):
                return f"/{_pattern(ranges)}/"
            case Ref(name):
                return self._rule_in_terminal(name) if is_terminal else self._rule(name)
            case Repeat(of, least, most):
                return f"({written(of)}){{{least},{'' if most is None else most}}}"
            case Choice(options):
                return f"({' | '.join(map(written, options))})"
            case Sequence(()):
                return '""'
            case Sequence(parts):
                return " ".join(starmap(_joined, groupby(map(written, parts), _is_pattern)))


def _is_pattern(written: str) -> bool:
    return written.startswith("/") and written.endswith("/") and written.count("/") == 2


def _joined(are_patterns: bool, written: Iterable[str]) -> str:
    return f"/{''.join(pattern[1:-1] for pattern in written)}/" if are_patterns else " ".join(written)


def _pattern(ranges: Ranges) -> str:
    """One of these characters, as a regular expression."""
    if ranges[0][0] == ranges[-1][1]:
        return _code(ranges[0][0])
    return f"[{''.join(_code(first) if first == last else f'{_code(first)}-{_code(last)}' for first, last in ranges)}]"


def _code(code: int) -> str:
    return chr(code) if code < 0x80 and chr(code).isalnum() else f"\\x{{{code:X}}}"
