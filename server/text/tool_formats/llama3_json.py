"""Llama 3's JSON dialect: {"name": ..., "parameters": ...}, several with ; between, perhaps a tag before them."""

from server.text.events import Content
from server.text.source import Reading, Source
from server.text.tool_formats.call_reader import attempt, read_call
from server.text.tool_formats.format import CallSyntax

PYTHON_TAG = "<|python_tag|>"

_SPELLING = r'\{\s*"name"\s*:\s*"NAME"\s*,\s*"(parameters|arguments)"\s*:\x20?'


class Llama3Json:
    """See `ToolFormat`."""

    name = "llama3_json"
    markers = (PYTHON_TAG,)
    mark = None
    syntax = CallSyntax(before=('{"name": "NAME", "parameters": ',), after=("}",), between=("; ",), spelling=_SPELLING)

    def read(self, source: Source, tool_names: frozenset[str]) -> Reading[None]:
        """Calls are the first thing in a text, or come after the tag."""
        opening = yield from source.take_blank()
        if (yield from source.peek()) == "{":
            yield from _read_calls(source, tool_names, opening)
        else:
            yield Content(opening)
        while (yield from source.take_until(PYTHON_TAG, Content)):
            opening = PYTHON_TAG + (yield from source.take_blank())
            yield from _read_calls(source, tool_names, opening)

    def template_id(self, call_id: str) -> str:
        return call_id


def _read_calls(source: Source, tool_names: frozenset[str], opening: str) -> Reading[None]:
    while (yield from attempt(source, read_call(source, tool_names), opening)):
        opening = yield from source.take_blank()
        opening += yield from source.take_literal(";")
        opening += yield from source.take_blank()
        if (yield from source.peek()) != "{":
            yield Content(opening)
            return
