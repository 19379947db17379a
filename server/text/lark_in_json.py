"""Rewrites a Lark grammar for texts that stand within a JSON string, as the input of a custom tool does."""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from server.text.regex_in_json import NotInJson, ignored_in_json, regex_in_json

_STRING = r'"(?:\\.|[^"\\\n])*"'
_TOKEN = re.compile(
    rf"""(?P<comment>(?://|\#)[^\n]*)
    |(?P<pattern>{_STRING}[ \t]*\.\.[ \t]*{_STRING}|{_STRING}i?|/(?:\\.|[^/\\])+/[a-z]*)
    |(?P<import>%import\s+common\s*(?:\.\s*\w+(?:\s*->\s*\w+)?|\([^)]*\)))
    |(?P<ignore>%ignore)
    |(?P<alias>->\s*\w+)
    |(?P<refused>%\w*|<[^<>\s]+>|@[\w-]+|~(?!\s*\d)|&|^[ \t]*[?!]?\w[\w-]*\[[^\]]*\]\s*:)
    |(?P<head>^[ \t]*[?!]?[\w-]+[ \t]*:)
    |(?P<terminal>_?[A-Z][A-Z0-9_-]*)
    |(?P<other>[a-z_0-9][\w-]*|\s+?|.)""",
    re.VERBOSE | re.MULTILINE,
)

# Lark's common terminals that may hold what JSON escapes.
_COMMON = {
    "CR": r"\r",
    "LF": r"\n",
    "NEWLINE": r"(\r?\n)+",
    "WS": r"[ \t\f\r\n]+",
    "WS_INLINE": r"[ \t]+",
    "ESCAPED_STRING": r'"([^"\\\n]|\\.)*"',
    "SH_COMMENT": r"#[^\n]*",
    "CPP_COMMENT": r"\/\/[^\n]*",
    "C_COMMENT": r"\/\*([^*]|\*+[^*\/])*\*+\/",
    "SQL_COMMENT": r"--[^\n]*",
}


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str
    text: str
    line: int


def lark_in_json(definition: str) -> str:
    """The grammar, of Lark's own notation, of the same texts as JSON writes them between the quotation marks.

    Terminals that may hold what JSON escapes become rules. What is ignored may always end a text, which llguidance
    takes itself only where more could come. Raises NotInJson, naming the line.
    """
    tokens = list(_tokens(definition))
    escaped = {token.text: _written(token, regex_in_json) for token in tokens if token.kind == "pattern"}
    definitions = _definitions(tokens)
    rules = _terminals_with_escapes(definitions, escaped)
    # %ignore would hold within a terminal that becomes a rule too, so what is ignored is named where it may stand.
    ignored = [f"ignored-{number}" for number in range(sum(token.kind == "ignore" for token in tokens))]
    names, place, parts = iter(ignored), "", list[str]()
    for token in tokens:
        text = escaped.get(token.text) or token.text
        if token.kind in ("head", "terminal") and (name := _name(token)) in rules:
            text = token.text.replace(name, f"terminal-{name.lower()}")
        if token.kind == "head":
            place = "terminal" if _name(token).isupper() else "rule"
        elif token.kind == "ignore":
            place, text = "ignored", f"{next(names)}:"
        elif place == "ignored" and text != token.text:
            text = _ignored(definitions.get(token.text, [token]))
        elif place == "rule" and ignored and token.kind in ("pattern", "terminal"):
            text = f"({text} ignored-text)"
        parts.append(text)
    if ignored:
        parts.append(f"\nignored-text: ({' | '.join(ignored)})*\n")
    return "".join(parts)


def _tokens(definition: str) -> Iterator[_Token]:
    line = 1
    for match in _TOKEN.finditer(definition):
        kind, text = str(match.lastgroup), match[0]
        if kind == "refused":
            raise NotInJson(f"in line {line}: {text[:40]!r} has no place in the JSON that calls are written in")
        yield from _imported(text, line) if kind == "import" else [_Token(kind, text, line)]
        line += text.count("\n")


def _imported(statement: str, line: int) -> Iterator[_Token]:
    """A definition of each terminal that may hold what JSON escapes, and an import of each other one."""
    _, _, names = statement.partition("common")
    for one in names.strip(" .()\t\n").split(","):
        name, _, alias = (part.strip() for part in one.partition("->"))
        if name in _COMMON:
            yield _Token("head", f"{alias or name}:", line)
            yield _Token("pattern", f"/{_COMMON[name]}/", line)
        else:
            yield _Token("import", f"%import common.{name}" + (f" -> {alias}" if alias else ""), line)
        yield _Token("other", "\n", line)


def _name(token: _Token) -> str:
    return token.text.strip(" \t?!:")


def _definitions(tokens: Sequence[_Token]) -> dict[str, list[_Token]]:
    """By the name of each rule and terminal: the patterns and the terminals that it is made of."""
    definitions: dict[str, list[_Token]] = {}
    current: list[_Token] = []
    for token in tokens:
        if token.kind in ("head", "ignore"):
            current = []
            if token.kind == "head":
                definitions[_name(token)] = current
        elif token.kind in ("pattern", "terminal"):
            current.append(token)
    return definitions


def _terminals_with_escapes(definitions: Mapping[str, Sequence[_Token]], escaped: Mapping[str, str | None]) -> set[str]:
    """The names of the terminals in which JSON may escape something."""
    terminals = {name: made_of for name, made_of in definitions.items() if name.isupper()}
    users = defaultdict(list)
    for name, made_of in terminals.items():
        for token in made_of:
            users[token.text].append(name)
    found: set[str] = set()
    new = [name for pattern, text in escaped.items() if text is not None for name in users[pattern]]
    while new:
        if (name := new.pop()) not in found:
            found.add(name)
            new += users[name]
    return found


def _ignored(made_of: Sequence[_Token]) -> str:
    # An ignored terminal stays one.
    if len(made_of) > 1 or made_of[0].kind != "pattern":
        raise NotInJson(f"in line {made_of[0].line}: a terminal that is ignored is one pattern")
    return _written(made_of[0], ignored_in_json) or made_of[0].text


def _written(token: _Token, write: Callable[[str, str], str | None]) -> str | None:
    try:
        return write(*_as_regex(token.text))
    except (ValueError, re.error) as error:
        raise NotInJson(f"in line {token.line}: {error}") from None


def _as_regex(text: str) -> tuple[str, str]:
    """A string, a range or a regular expression of Lark as a pattern and its flags."""
    if text.startswith("/"):
        pattern, _, flags = text[1:].rpartition("/")
        return pattern, flags
    first, *last = (json.loads(string) for string in re.findall(_STRING, text))
    if last:
        return rf"[\x{{{ord(first):X}}}-\x{{{ord(last[0]):X}}}]", ""
    return re.escape(first).replace("/", r"\/"), "i" if text.endswith("i") else ""
