"""Reads a call whose arguments are JSON, which is what most dialects have within their marks."""

from server.text.events import CallArguments, CallEnd, CallStart, Content
from server.text.source import Reading, Source
from server.text.tool_formats.json_reader import NotJson, read_json, read_silently, read_string


class NotACall(ValueError):
    """What began like a call is something else."""


def attempt(source: Source, call: Reading[bool], opening: str = "") -> Reading[bool]:
    """Reads a call, or yields all that was read of it as content, with `opening`, which was read before, in front.

    True if the call is whole, so that what the dialect puts after a call may follow.
    """
    source.mark()
    try:
        is_whole = yield from call
    except (NotACall, NotJson):
        yield Content(opening + source.since_mark())
        is_whole = False
    source.forget_mark()
    return is_whole


def read_call(source: Source, tool_names: frozenset[str]) -> Reading[bool]:
    """An object with the members `name` and `arguments` (or `parameters`), in any order and among others.

    Raises NotACall or NotJson as long as nothing was yielded; a call that goes wrong later just ends. True if it is
    whole.
    """
    name = arguments = None
    yield from expect(source, "{")
    while True:
        key = yield from _read_key(source)
        if key == "name":
            name = yield from _read_name(source, tool_names)
        elif key not in ("arguments", "parameters"):
            yield from read_silently(source)
        elif name is not None and (yield from source.peek()) == "{":
            return (yield from read_arguments(source, name)) and (yield from _finish_object(source))
        else:
            arguments = yield from _read_early_arguments(source)
        yield from source.take_blank()
        if (yield from source.peek()) == "}":
            break
        yield from expect(source, ",")
    if name is None:
        raise NotACall("no name")
    yield from source.take()
    yield CallStart(name)
    yield CallArguments(arguments or "{}")
    yield CallEnd(True)
    return True


def read_arguments(source: Source, name: str) -> Reading[bool]:
    """A call of which only the arguments are left to read. True if they are whole."""
    yield CallStart(name)
    try:
        yield from read_json(source)
    except NotJson:
        yield CallEnd(False)
        return False
    yield CallEnd(True)
    return True


def expect(source: Source, literal: str) -> Reading[None]:
    """Reads the literal. Raises NotACall where something else comes."""
    if (yield from source.take_literal(literal)) != literal:
        raise NotACall(f"{literal} is missing")


def _read_key(source: Source) -> Reading[str]:
    yield from source.take_blank()
    key = yield from read_string(source)
    yield from source.take_blank()
    yield from expect(source, ":")
    yield from source.take_blank()
    return key


def _read_name(source: Source, tool_names: frozenset[str]) -> Reading[str]:
    name = yield from read_string(source)
    if name not in tool_names:
        raise NotACall("no such tool")
    return name


def _read_early_arguments(source: Source) -> Reading[str]:
    """Arguments that come before the name, or null where there are none."""
    if (yield from source.peek()) == "{":
        return (yield from read_silently(source))
    if (yield from read_silently(source)) != "null":
        raise NotACall("arguments are an object")
    return "{}"


def _finish_object(source: Source) -> Reading[bool]:
    """The end of a call's object, perhaps after more members; if it is missing, what is there is content."""
    source.mark()
    try:
        yield from source.take_blank()
        while (yield from source.take_literal(",")):
            yield from _read_key(source)
            yield from read_silently(source)
            yield from source.take_blank()
        yield from expect(source, "}")
    except (NotACall, NotJson):
        yield Content(source.since_mark())
        return False
    return True
