"""Reads JSON as it comes and passes it on as it stands."""

import json
import re
from collections.abc import Mapping
from types import MappingProxyType

from server.text.events import CallArguments
from server.text.source import Reading, Source

MAX_DEPTH = 128
"""Clients' own readers give up beyond some hundred levels."""
MAX_NAME_CHARS = 256
MAX_SCALAR_CHARS = 512

_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_SCALAR = re.compile(r"[A-Za-z0-9+.-]+")
_NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_NO_CONSTANTS: Mapping[str, str] = MappingProxyType({})
_HEX = re.compile(r"[0-9a-fA-F]")


class NotJson(ValueError):
    """The text isn't JSON, or ended within it."""


def read_json(source: Source) -> Reading[None]:
    """Reads one value and yields its text in pieces as CallArguments. Raises NotJson.

    The text is passed on unchanged but for two faults that models make within strings: a control character is escaped,
    and so is a backslash that begins no escape.
    """
    closings: list[str] = []
    while True:
        yield from _pass_blank(source)
        is_open = yield from _begin_value(source, closings)
        while not is_open and closings:
            is_open = yield from _after_value(source, closings)
        if not closings:
            return


def read_string(source: Source) -> Reading[str]:
    """A short string, such as a key or a name. Raises NotJson."""
    pieces: list[str] = []
    size = 0
    for event in read_string_in_pieces(source):
        if isinstance(event, CallArguments):
            pieces.append(event.text)
            size += len(event.text)
            if size > MAX_NAME_CHARS:
                raise NotJson("too long for a name")
        else:
            yield event
    text: str = json.loads("".join(pieces))
    return text


def read_string_in_pieces(source: Source) -> Reading[None]:
    """A string of any length, as CallArguments: its quotes, each escape whole, and what is between. Raises NotJson."""
    if (yield from source.peek()) != '"':
        raise NotJson("not a string")
    yield from _pass_one(source)
    while True:
        if run := (yield from source.take_run(_PLAIN)):
            yield CallArguments(run)
            continue
        character = yield from source.take()
        match character:
            case '"':
                yield CallArguments(character)
                return
            case "\\":
                yield CallArguments((yield from _escape(source)))
            case "":
                raise NotJson("a string without an end")
            case _:
                yield CallArguments(json.dumps(character)[1:-1])


def read_silently(source: Source) -> Reading[str]:
    """One value's text, whole. Raises NotJson."""
    pieces: list[str] = []
    for event in read_json(source):
        if isinstance(event, CallArguments):
            pieces.append(event.text)
        else:
            yield event
    return "".join(pieces)


def read_scalar(source: Source, constants: Mapping[str, str] = _NO_CONSTANTS) -> Reading[str]:
    """A number or a constant, as JSON. `constants`: more of those, by their spelling. Raises NotJson."""
    text = ""
    while run := (yield from source.take_run(_SCALAR)):
        text += run
        if len(text) > MAX_SCALAR_CHARS:
            raise NotJson("a number too long")
    if text in ("true", "false", "null") or _NUMBER.fullmatch(text):
        return text
    if text in constants:
        return constants[text]
    raise NotJson("not a value")


def _begin_value(source: Source, closings: list[str]) -> Reading[bool]:
    """A scalar, an empty container or the opening of another one, within which a value follows: then True."""
    character = yield from source.peek()
    if character == '"':
        yield from read_string_in_pieces(source)
        return False
    if character not in ("{", "["):
        yield CallArguments((yield from read_scalar(source)))
        return False
    yield from _pass_one(source)
    if len(closings) == MAX_DEPTH:
        raise NotJson("too deep")
    closing = "}" if character == "{" else "]"
    closings.append(closing)
    yield from _pass_blank(source)
    if (yield from source.peek()) == closing:
        return False
    if character == "{":
        yield from _key(source)
    return True


def _after_value(source: Source, closings: list[str]) -> Reading[bool]:
    """A comma, after which a value follows: True. Or the end of the container that the value was in."""
    yield from _pass_blank(source)
    character = yield from source.peek()
    if character == closings[-1]:
        yield from _pass_one(source)
        closings.pop()
        return False
    if character != ",":
        raise NotJson("neither a comma nor the end")
    yield from _pass_one(source)
    if closings[-1] == "}":
        yield from _pass_blank(source)
        yield from _key(source)
    return True


def _key(source: Source) -> Reading[None]:
    yield from read_string_in_pieces(source)
    yield from _pass_blank(source)
    if (yield from source.peek()) != ":":
        raise NotJson("a key without a colon")
    yield from _pass_one(source)


def _escape(source: Source) -> Reading[str]:
    """What follows a backslash, with it."""
    character = yield from source.peek()
    if not character:
        raise NotJson("an escape without an end")
    if character in '"\\/bfnrt':
        yield from source.take()
        return "\\" + character
    if character != "u":
        return "\\\\"
    yield from source.take()
    digits = ""
    while len(digits) < 4 and _HEX.match((yield from source.peek())):
        digits += yield from source.take()
    if not (yield from source.peek()):
        raise NotJson("an escape without an end")
    return ("\\u" if len(digits) == 4 else "\\\\u") + digits


def _pass_blank(source: Source) -> Reading[None]:
    if blank := (yield from source.take_blank()):
        yield CallArguments(blank)


def _pass_one(source: Source) -> Reading[None]:
    yield CallArguments((yield from source.take()))
