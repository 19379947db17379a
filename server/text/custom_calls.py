"""Takes the input of custom tools out of the JSON that models write it in."""

import json
import re

from server.text.events import CallArguments, CallEnd, CallInput, CallStart, Event
from server.text.source import Reading, Source
from server.text.tool_formats.call_reader import NotACall, expect
from server.text.tool_formats.json_reader import NotJson, read_string, read_string_in_pieces

_HALF = re.compile(r"\\u[dD][89abAB][0-9a-fA-F]{2}")


class CustomCalls:
    """Turns the arguments `{"input": "..."}` of some tools' calls, as they come, into the text that the string says.

    Other arguments are taken for the input as they are: they are the text that the model wrote.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._source: Source | None = None
        """The arguments of the call that is being read, if it is one of a custom tool."""
        self._reading: Reading[None] | None = None

    def translate(self, event: Event) -> list[Event]:
        """What the event is to the client."""
        match event:
            case CallStart(name) if name in self._names:
                self._source = Source()
                self._reading = _read_input(self._source)
                return [CallStart(name, is_custom=True)]
            case CallArguments(text) if self._source is not None:
                self._source.feed(text)
                return self._advance()
            case CallEnd() if self._source is not None:
                self._source.end()
                rest, self._source = self._advance(), None
                return [*rest, event]
            case _:
                return [event]

    def _advance(self) -> list[Event]:
        events: list[Event] = []
        assert self._reading is not None
        for event in self._reading:
            if event is None:
                break
            events.append(event)
        return events


def _read_input(source: Source) -> Reading[None]:
    source.mark()
    try:
        yield from _read_opening(source)
    except (NotACall, NotJson):
        yield CallInput(source.since_mark())
        source.forget_mark()
        while rest := (yield from source.take_rest()):
            yield CallInput(rest)
        return
    source.forget_mark()
    try:
        yield from _read_text(source)
    except NotJson:
        return  # the call was cut short
    while (yield from source.take_rest()):
        pass


def _read_opening(source: Source) -> Reading[None]:
    yield from expect(source, "{")
    yield from source.take_blank()
    if (yield from read_string(source)) != "input":
        raise NotACall("no input")
    yield from source.take_blank()
    yield from expect(source, ":")
    yield from source.take_blank()
    if (yield from source.peek()) != '"':
        raise NotACall("the input is no string")


def _read_text(source: Source) -> Reading[None]:
    half = ""
    for event in read_string_in_pieces(source):
        if not isinstance(event, CallArguments):
            yield event
        elif event.text != '"':
            written, half = half + event.text, ""
            if _HALF.fullmatch(event.text):
                half = written  # of a surrogate pair: its other half comes next
            else:
                yield CallInput(_meant(written))
    if half:
        yield CallInput(_meant(half))


def _meant(written: str) -> str:
    """What a part of a JSON string stands for, with U+FFFD for half of a surrogate pair."""
    text: str = json.loads(f'"{written}"')
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
