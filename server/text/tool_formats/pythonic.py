"""Llama's pythonic dialect: [f(a=1), g(b="x")], the first thing in a text. What it stands for is never evaluated."""

import re

from server.text.events import CallArguments, CallEnd, CallStart, Content
from server.text.source import Reading, Source
from server.text.tool_formats.call_reader import NotACall, attempt
from server.text.tool_formats.format import CallSyntax
from server.text.tool_formats.json_reader import MAX_NAME_CHARS, NotJson
from server.text.tool_formats.literal_reader import read_literal
from server.text.tool_formats.llama3_json import PYTHON_TAG, Llama3Json

_WORD = re.compile(r"[A-Za-z0-9_-]+")


class Pythonic:
    """See `ToolFormat`. Arguments become JSON as they come. The same models write Llama 3's JSON too."""

    name = "pythonic"
    markers = (PYTHON_TAG,)
    mark = None
    syntax = CallSyntax(
        opening=("[",),
        before=("NAME(",),
        after=(")",),
        between=(", ",),
        closing=("]",),
        has_keywords=True,
        spelling=r"\[\s*NAME\(",
    )

    def read(self, source: Source, tool_names: frozenset[str]) -> Reading[None]:
        """A list of calls, or anything else."""
        opening = yield from source.take_blank()
        bracket = yield from source.take_literal("[")
        if not bracket:
            yield Content(opening)
            return (yield from Llama3Json().read(source, tool_names))
        opening += bracket + (yield from source.take_blank())
        while (yield from attempt(source, _read_call(source, tool_names), opening)):
            opening = yield from source.take_blank()
            comma = yield from source.take_literal(",")
            if not comma:
                yield Content(opening)
                yield from source.take_literal("]")
                break
            opening += comma + (yield from source.take_blank())
        while run := (yield from source.take_rest()):
            yield Content(run)
        return None

    def template_id(self, call_id: str) -> str:
        return call_id


def _read_call(source: Source, tool_names: frozenset[str]) -> Reading[bool]:
    """A call, which begins for good with its first `name=`, or the bracket that closes an empty one."""
    name = yield from _read_word(source)
    if name not in tool_names or not (yield from source.take_literal("(")):
        raise NotACall("no call of a tool")
    yield from source.take_blank()
    if (yield from source.take_literal(")")):
        yield CallStart(name)
        yield CallArguments("{}")
        yield CallEnd(True)
        return True
    parameter = yield from _read_parameter(source)
    yield CallStart(name)
    try:
        yield from _read_arguments(source, parameter)
    except (NotACall, NotJson):
        yield CallEnd(False)
        return False
    yield CallEnd(True)
    return True


def _read_arguments(source: Source, parameter: str) -> Reading[None]:
    opening = "{"
    while True:
        yield CallArguments(f'{opening}"{parameter}": ')
        yield from read_literal(source)
        yield from source.take_blank()
        comma = yield from source.take_literal(",")
        yield from source.take_blank()
        if (yield from source.take_literal(")")):
            yield CallArguments("}")
            return
        if not comma:
            raise NotACall("neither a comma nor the end")
        parameter, opening = (yield from _read_parameter(source)), ", "


def _read_parameter(source: Source) -> Reading[str]:
    """The name of an argument, and the sign after it."""
    parameter = yield from _read_word(source)
    yield from source.take_blank()
    if not parameter or not (yield from source.take_literal("=")):
        raise NotACall("no name before the argument")
    yield from source.take_blank()
    return parameter


def _read_word(source: Source) -> Reading[str]:
    word = ""
    while run := (yield from source.take_run(_WORD)):
        word += run
        if len(word) > MAX_NAME_CHARS:
            raise NotACall("too long for a name")
    return word
