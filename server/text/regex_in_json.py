"""Rewrites a regular expression for texts that stand within a JSON string, as a term of a Lark rule.

An escape is a lexeme of its own: llguidance's lexer takes all that a lexeme can, looking one byte ahead, so within a
lexeme a backslash would be the next character of it and never the line break after it. Between
these lexemes nothing may be ignored.
"""

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby

MAX_DEPTH = 64

# What stands in a JSON string as an escape alone, each in the spelling that JSON's writers choose.
_ESCAPES = {character: json.dumps(character)[1:-1] for character in ['"', "\\", *map(chr, range(0x20))]}
_UNESCAPED = r'[^"\\\x00-\x1F]'

_PIECE = re.compile(
    r"""(?P<open>\((?:\?P?<\w+>|\?(?P<set>[a-zA-Z]*)(?:-(?P<unset>[a-zA-Z]+))?(?P<end>[:)]))?)
    |(?P<close>\))
    |(?P<or>\|)
    |(?P<times>[*+?]|\{\d+(?:,\d*)?\})\??  # lazy or not, it is the same texts
    |(?P<anchor>[\^$])
    |(?P<atom>\[\^?\]?(?:\\.|[^\]\\])*\]
        |\\[pP](?:\{[^}]*\}|.)|\\[xuU]\{[^}]*\}|\\x..|\\u....|\\U........
        |\\?.)""",
    re.VERBOSE | re.DOTALL,
)
_PROPERTY = re.compile(r"\\([pP])(?:\{([^}]*)\}|(.))")
_CODE_POINT = re.compile(r"\\[xuU]\{([0-9a-fA-F]{1,8})\}")
_CATEGORY = re.compile("[LMNPSZC][a-z]?")


class NotInJson(ValueError):
    """The grammar holds what can't be written within JSON; the message is for the person who wrote it."""


@dataclass(frozen=True, slots=True)
class _Atom:
    source: str
    """What matches one character."""
    flags: str
    """Those in force, as they are written."""
    escaped: str
    """Those of the characters which it matches that JSON escapes."""
    is_set: bool
    """Whether it may match others."""


@dataclass(frozen=True, slots=True)
class _Repeat:
    inner: "_Part"
    times: str


@dataclass(frozen=True, slots=True)
class _Sequence:
    parts: tuple["_Part", ...]


@dataclass(frozen=True, slots=True)
class _Choice:
    parts: tuple["_Part", ...]


_Part = _Atom | _Repeat | _Sequence | _Choice


def regex_in_json(pattern: str, flags: str = "") -> str | None:
    """What JSON writes for the texts that the pattern matches; None where that is the texts themselves.

    A character is escaped where JSON demands it and nowhere else. Raises NotInJson.
    """
    part = _Reader(pattern).choice(_scope(frozenset(), flags, ""))
    return f"({_term(part)})" if _has_escapes(part) else None


def ignored_in_json(pattern: str, flags: str = "") -> str | None:
    """The same for what is ignored any number of times in a row, as one terminal. Raises NotInJson."""
    part = _Reader(pattern).choice(_scope(frozenset(), flags, ""))
    if not _has_escapes(part):
        return None
    one = part.inner if isinstance(part, _Repeat) and part.times in ("*", "+") else part
    atoms = one.parts if isinstance(one, _Choice) else (one,)
    lexemes: list[str] = []
    for atom in atoms:
        if not isinstance(atom, _Atom):
            raise NotInJson(
                "what is ignored and may hold what JSON escapes is one character, or any number of such; let the rules "
                "say where a comment stands"
            )
        lexemes += _lexemes(atom)
    return f"/{'|'.join(lexemes)}/"


class _Reader:
    def __init__(self, pattern: str) -> None:
        self._pieces = list(_PIECE.finditer(pattern))
        self._position = 0

    def choice(self, flags: frozenset[str], depth: int = 0) -> _Part:
        """What comes up to the end of the group. `flags`: those in force."""
        if depth > MAX_DEPTH:
            raise NotInJson(f"groups are nested more than {MAX_DEPTH} deep")
        options: list[list[_Part]] = [[]]
        while (piece := self._next()) is not None and piece.lastgroup != "close":
            match piece.lastgroup:
                case "atom":
                    options[-1].append(_atom(piece[0], flags))
                case "times":
                    options[-1].append(_Repeat(options[-1].pop(), piece["times"]))
                case "or":
                    options.append([])
                case "open":
                    inner = _scope(flags, piece["set"] or "", piece["unset"] or "")
                    if piece["end"] == ")":
                        flags = inner
                    else:
                        options[-1].append(self.choice(inner, depth + 1))
        sequences = [parts[0] if len(parts) == 1 else _Sequence(tuple(parts)) for parts in options]
        return sequences[0] if len(sequences) == 1 else _Choice(tuple(sequences))

    def _next(self) -> re.Match[str] | None:
        self._position += 1
        return self._pieces[self._position - 1] if self._position <= len(self._pieces) else None


def _scope(outer: frozenset[str], added: str, taken: str) -> frozenset[str]:
    """The flags in force. Raises NotInJson for those under which a pattern would have to be read in another way."""
    if other := {*added, *taken} & {"x", "R"}:
        raise NotInJson(f"the flag {min(other)!r} can't be used here")
    return (outer | set(added)) - set(taken)


def _atom(source: str, flags: frozenset[str]) -> _Atom:
    if source.isalnum() or source == " ":
        escaped = ""
    else:
        matches = _compiled(source, re.DOTALL if "s" in flags else re.NOFLAG).fullmatch
        escaped = "".join(sorted(filter(matches, _ESCAPES)))
    is_set = source.startswith((".", "[", r"\p", r"\P")) or len(escaped) > 1
    return _Atom(source, "".join(sorted(flags)), escaped, is_set)


def _compiled(source: str, flags: re.RegexFlag) -> re.Pattern[str]:
    """Python's pattern for one character, of which JSON's escaped ones alone matter. Raises NotInJson, re.error."""
    body = source[1:-1] if source.startswith("[") else ""
    if re.search(r"&&|--|~~", body) or "[" in re.sub(r"\\.", "", body):
        raise NotInJson(f"{source[:40]!r}: a class within a class, or an operation on classes, can't be used here")
    source = _PROPERTY.sub(partial(_members, is_in_class=bool(body)), source)
    source = _CODE_POINT.sub(lambda code: rf"\U{int(code[1], 16):08x}", source)
    # Two of them at once are something to Python alone.
    return re.compile(re.sub(r"\|{2,}", "|", source), flags | re.ASCII)


def _members(of: re.Match[str], *, is_in_class: bool) -> str:
    """Those of the escaped characters that have a Unicode property."""
    name = of[3] if of[2] is None else of[2]
    if not _CATEGORY.fullmatch(name):
        raise NotInJson(rf"{of[0][:40]!r}: of Unicode's properties only categories such as \p{{L}} can be used here")
    has = [unicodedata.category(character).startswith(name) == (of[1] == "p") for character in _ESCAPES]
    members = "".join(rf"\x{ord(character):02x}" for character, is_one in zip(_ESCAPES, has, strict=True) if is_one)
    # A letter, which is escaped nowhere, for a class that would be empty.
    return f"{members}a" if is_in_class else f"[{members}a]"


def _has_escapes(part: _Part) -> bool:
    match part:
        case _Atom():
            return bool(part.escaped)
        case _Repeat():
            return _has_escapes(part.inner)
        case _Sequence() | _Choice():
            return any(map(_has_escapes, part.parts))


def _term(part: _Part) -> str:
    """A part as a term of a rule, that holds lexemes of plain characters and lexemes of one escape."""
    if not _has_escapes(part):
        return f"/{_regex(part)}/"
    match part:
        case _Atom():
            return " | ".join(f"/{lexeme}/" for lexeme in _lexemes(part))
        case _Repeat(inner, times) if times in ("*", "+"):
            options = inner.parts if isinstance(inner, _Choice) else (inner,)
            return f"({' | '.join(map(_looped, options))}){times}"
        case _Repeat(inner, times):
            return f"({_term(inner)}){times}"
        case _Choice(options):
            return " | ".join(map(_term, options))
        case _Sequence(parts):
            return " ".join(_joined(parts))


def _looped(part: _Part) -> str:
    """A part that may come any number of times in a row: plain characters at once, as one lexeme."""
    if not isinstance(part, _Atom) or not part.escaped:
        return _term(part)
    *plain, escapes = _lexemes(part)
    return " | ".join([*(f"/{lexeme}+/" for lexeme in plain), f"/{escapes}/"])


def _joined(parts: tuple[_Part, ...]) -> Iterator[str]:
    for has_escapes, some in groupby(parts, _has_escapes):
        if has_escapes:
            yield from (f"({_term(part)})" for part in some)
        else:
            yield f"/{''.join(map(_regex, some))}/"


def _regex(part: _Part) -> str:
    """A part without escapes, as it was written."""
    match part:
        case _Atom():
            return _flagged(part.source, part)
        case _Repeat(inner, times):
            return f"(?:{_regex(inner)}){times}"
        case _Sequence(parts):
            return "".join(map(_regex, parts))
        case _Choice(options):
            return f"(?:{'|'.join(map(_regex, options))})"


def _lexemes(atom: _Atom) -> list[str]:
    """Regular expressions for the plain characters, if there may be any, and for the escapes, if there are some."""
    if not atom.escaped:
        return [_flagged(atom.source, atom)]
    short = "".join(re.escape(escape[1]) for c in atom.escaped if len(escape := _ESCAPES[c]) == 2)
    by_digit = {d: "".join(e[5] for c in atom.escaped if len(e := _ESCAPES[c]) == 6 and e[4] == d) for d in "01"}
    letters = [f"[{short}]"] if short else []
    letters += [f"u00{digit}[{last}]" for digit, last in by_digit.items() if last]
    escapes = rf"\\(?:{'|'.join(letters)})"
    if not atom.is_set:
        return [escapes]
    return [_UNESCAPED if atom.source == "." else _flagged(f"[{atom.source}&&{_UNESCAPED}]", atom), escapes]


def _flagged(regex: str, atom: _Atom) -> str:
    return f"(?{atom.flags}:{regex})" if atom.flags else regex
