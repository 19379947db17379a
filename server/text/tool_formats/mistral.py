"""Mistral's dialects: [TOOL_CALLS][{"name": ..., "arguments": ...}, ...] and the newer [TOOL_CALLS]name[ARGS]{...}."""

import hashlib
import re
from dataclasses import dataclass

from server.text.events import Content
from server.text.source import Reading, Source
from server.text.tool_formats.call_reader import NotACall, attempt, expect, read_arguments, read_call
from server.text.tool_formats.format import CallSyntax
from server.text.tool_formats.json_reader import MAX_NAME_CHARS

TOOL_CALLS, CALL_ID, ARGS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_ID = re.compile(r"[A-Za-z0-9]{9}")

ARRAY = CallSyntax(
    opening=(TOOL_CALLS, "["), before=('{"name": "NAME", "arguments": ',), after=("}",), between=(", ",), closing=("]",)
)
NAMED = CallSyntax(before=(TOOL_CALLS, "NAME", ARGS))


@dataclass(frozen=True, slots=True)
class Mistral:
    """See `ToolFormat`. Reads both dialects."""

    name: str
    syntax: CallSyntax
    markers: tuple[str, ...] = (TOOL_CALLS, CALL_ID, ARGS)
    mark: str = TOOL_CALLS

    def read(self, source: Source, tool_names: frozenset[str]) -> Reading[None]:
        """Calls come anywhere."""
        while (yield from source.take_until(TOOL_CALLS, Content)):
            opening = TOOL_CALLS + (yield from source.take_blank())
            bracket = yield from source.take_literal("[")
            if bracket:
                yield from _read_array(source, tool_names, opening + bracket)
            else:
                yield from attempt(source, _read_named(source, tool_names), opening)

    def template_id(self, call_id: str) -> str:
        """Templates insist on nine letters or digits."""
        return call_id if _ID.fullmatch(call_id) else hashlib.sha256(call_id.encode()).hexdigest()[:9]


def _read_array(source: Source, tool_names: frozenset[str], opening: str) -> Reading[None]:
    opening += yield from source.take_blank()
    while (yield from attempt(source, read_call(source, tool_names), opening)):
        opening = yield from source.take_blank()
        comma = yield from source.take_literal(",")
        if not comma:
            yield Content(opening)
            yield from source.take_literal("]")
            return
        opening += comma + (yield from source.take_blank())


def _read_named(source: Source, tool_names: frozenset[str]) -> Reading[bool]:
    name = yield from _read_word(source)
    if name not in tool_names:
        raise NotACall("no such tool")
    if (yield from source.take_literal("[")):
        if (yield from source.peek()) == CALL_ID[1]:
            yield from expect(source, CALL_ID[1:])
            yield from _read_word(source)  # templates have no use for it, and clients get an id of ours
            yield from expect(source, "[")
        yield from expect(source, ARGS[1:])
    yield from source.take_blank()
    if (yield from source.peek()) != "{":
        raise NotACall("no arguments")
    return (yield from read_arguments(source, name))


def _read_word(source: Source) -> Reading[str]:
    word = ""
    while run := (yield from source.take_run(_NAME)):
        word += run
        if len(word) > MAX_NAME_CHARS:
            raise NotACall("too long for a name")
    return word
