"""Reads Python's literals as they come and passes them on as JSON."""

import json
import re

from server.text.events import CallArguments
from server.text.source import Reading, Source
from server.text.tool_formats.json_reader import MAX_DEPTH, NotJson, read_scalar

_PLAIN = {quote: re.compile(rf"[^{quote}\\]+") for quote in "'\""}
_HEX = re.compile(r"[0-9a-fA-F]")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0", "\n": ""}
_NUM_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_CONSTANTS = {"True": "true", "False": "false", "None": "null"}


def read_literal(source: Source) -> Reading[None]:
    """Reads a string, a number, True, False, None, or a list or dict of literals, and yields it as CallArguments.

    JSON's own constants are understood too. Raises NotJson, also for what JSON doesn't have.
    """
    closings: list[str] = []
    while True:
        yield from source.take_blank()
        is_open = yield from _begin_value(source, closings)
        while not is_open and closings:
            is_open = yield from _after_value(source, closings)
        if not closings:
            return


def _begin_value(source: Source, closings: list[str]) -> Reading[bool]:
    """A scalar, an empty container or the opening of another one, within which a value follows: then True."""
    character = yield from source.peek()
    if character in _PLAIN:
        yield from _string(source)
        return False
    if character not in ("{", "["):
        yield CallArguments((yield from read_scalar(source, _CONSTANTS)))
        return False
    if len(closings) == MAX_DEPTH:
        raise NotJson("too deep")
    closings.append("}" if character == "{" else "]")
    yield CallArguments((yield from source.take()))
    return (yield from _next_in_container(source, closings, ""))


def _after_value(source: Source, closings: list[str]) -> Reading[bool]:
    """A comma, after which a value follows: True. Or the end of the container that the value was in."""
    yield from source.take_blank()
    comma = yield from source.take_literal(",")
    if not comma and (yield from source.peek()) != closings[-1]:
        raise NotJson("neither a comma nor the end")
    return (yield from _next_in_container(source, closings, ", "))


def _next_in_container(source: Source, closings: list[str], comma: str) -> Reading[bool]:
    """The end, which a comma may come before as JSON's may not; or what comes before the next value: then True."""
    yield from source.take_blank()
    if (yield from source.take_literal(closings[-1])):
        yield CallArguments(closings.pop())
        return False
    if not (yield from source.peek()):
        raise NotJson("a container without an end")
    if comma:
        yield CallArguments(comma)
    if closings[-1] == "}":
        if (yield from source.peek()) not in _PLAIN:
            raise NotJson("a key that is no string")
        yield from _string(source)
        yield from source.take_blank()
        if not (yield from source.take_literal(":")):
            raise NotJson("a key without a colon")
        yield CallArguments(": ")
    return True


def _string(source: Source) -> Reading[None]:
    quote = yield from source.take()
    yield CallArguments('"')
    while True:
        if run := (yield from source.take_run(_PLAIN[quote])):
            yield CallArguments(_as_json(run))
            continue
        character = yield from source.take()
        if character == quote:
            yield CallArguments('"')
            return
        if not character:
            raise NotJson("a string without an end")
        yield CallArguments((yield from _escape(source)))


def _escape(source: Source) -> Reading[str]:
    """What a backslash and the characters after it stand for, as JSON; Python keeps a backslash that begins nothing."""
    character = yield from source.peek()
    if not character:
        raise NotJson("an escape without an end")
    if character in _ESCAPES:
        yield from source.take()
        return _as_json(_ESCAPES[character])
    if character in "\\'\"":
        yield from source.take()
        return _as_json(character)
    if character not in _NUM_HEX_DIGITS:
        return "\\\\"
    yield from source.take()
    digits = ""
    while len(digits) < _NUM_HEX_DIGITS[character] and _HEX.match((yield from source.peek())):
        digits += yield from source.take()
    if not (yield from source.peek()):
        raise NotJson("an escape without an end")
    code = int(digits, 16) if len(digits) == _NUM_HEX_DIGITS[character] else 0x110000
    # In ASCII, since half of a surrogate pair is a character to Python but not to UTF-8.
    return json.dumps(chr(code))[1:-1] if code < 0x110000 else "\\\\" + character + digits


def _as_json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
