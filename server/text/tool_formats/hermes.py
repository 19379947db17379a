"""Hermes 2 Pro's dialect, also Qwen's: <tool_call>{"name": ..., "arguments": ...}</tool_call>, as many as wanted."""

from server.text.events import Content
from server.text.source import Reading, Source
from server.text.tool_formats.call_reader import attempt, read_call
from server.text.tool_formats.format import CallSyntax

OPENING, CLOSING = "<tool_call>", "</tool_call>"


class Hermes:
    """See `ToolFormat`."""

    name = "hermes"
    markers = (OPENING, CLOSING)
    mark = OPENING
    syntax = CallSyntax(before=(OPENING, '\n{"name": "NAME", "arguments": '), after=("}\n", CLOSING), between=("\n",))

    def read(self, source: Source, tool_names: frozenset[str]) -> Reading[None]:
        """Calls come anywhere; an end without a closing tag is forgiven."""
        while (yield from source.take_until(OPENING, Content)):
            if (yield from attempt(source, _read_tagged(source, tool_names), OPENING)):
                yield Content((yield from source.take_blank()))
                yield from source.take_whole(CLOSING)

    def template_id(self, call_id: str) -> str:
        return call_id


def _read_tagged(source: Source, tool_names: frozenset[str]) -> Reading[bool]:
    yield from source.take_blank()
    return (yield from read_call(source, tool_names))
