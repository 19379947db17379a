"""The bundled model's dialect: <call> words of its own name {...}</call>, as many as wanted."""

import re

from server.text.events import Content
from server.text.source import Reading, Source
from server.text.tool_formats.call_reader import NotACall, attempt, read_arguments
from server.text.tool_formats.format import CallSyntax
from server.text.tool_formats.json_reader import MAX_NAME_CHARS

OPENING, CLOSING = "<call>", "</call>"

_WORDS = re.compile(r"[A-Za-z0-9_ -]+")


class Nexttoken:
    """See `ToolFormat`.

    The words are some of the tool's name, by which a model of this size finds the tool; they mean nothing here.
    """

    name = "nexttoken"
    markers = (OPENING, CLOSING)
    mark = OPENING
    syntax = CallSyntax(before=(OPENING, " NAME "), after=(CLOSING,), between=("\n",), has_words=True)

    def read(self, source: Source, tool_names: frozenset[str]) -> Reading[None]:
        """Calls come anywhere; an end without a closing tag is forgiven."""
        while (yield from source.take_until(OPENING, Content)):
            if (yield from attempt(source, _read_tagged(source, tool_names), OPENING)):
                yield Content((yield from source.take_blank()))
                closing = yield from source.take_literal(CLOSING)
                if closing != CLOSING:
                    yield Content(closing)

    def template_id(self, call_id: str) -> str:
        return call_id


def _read_tagged(source: Source, tool_names: frozenset[str]) -> Reading[bool]:
    words = ""
    while run := (yield from source.take_run(_WORDS)):
        words += run
        if len(words) > 16 * MAX_NAME_CHARS:
            raise NotACall("too long for a name")
    name = words.split()[-1] if words.split() else ""
    if name not in tool_names or (yield from source.peek()) != "{":
        raise NotACall("no such tool, or no arguments")
    return (yield from read_arguments(source, name))
