"""Puts a text through channels, whole or in pieces, and adds up what comes out."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from server.text.channels import ChannelPlan, Channels
from server.text.events import CallArguments, CallEnd, CallStart, Content, Reasoning
from server.text.reasoning import TAGS
from server.text.tool_formats.registry import FORMATS

TOOLS = frozenset({"f", "g", "get_weather"})


@dataclass
class Call:
    name: str
    arguments: str = ""
    is_complete: bool | None = None

    @property
    def value(self) -> Any:
        return json.loads(self.arguments)


@dataclass
class Split:
    content: str = ""
    reasoning: str = ""
    calls: list[Call] = field(default_factory=list)
    finish_reason: str = ""

    @property
    def called(self) -> list[tuple[str, Any]]:
        """Names and arguments of the calls, all of which are whole."""
        assert all(call.is_complete for call in self.calls)
        return [(call.name, call.value) for call in self.calls]


def split(
    pieces: str | Iterable[str], tool_format: str | None = None, tags: str | None = None, **options: Any
) -> Split:
    plan = ChannelPlan(TAGS[tags] if tags else None, FORMATS[tool_format] if tool_format else None, TOOLS, **options)
    channels = Channels(plan)
    result = Split()
    for piece in [pieces] if isinstance(pieces, str) else pieces:
        _add(result, channels.push(piece))
    _add(result, channels.finish())
    result.finish_reason = channels.finish_reason("stop")
    return result


def _add(result: Split, events: Iterable[object]) -> None:
    for event in events:
        match event:
            case Content(text):
                result.content += text
            case Reasoning(text):
                assert not result.content
                assert not result.calls
                result.reasoning += text
            case CallStart(name):
                assert all(call.is_complete is not None for call in result.calls)
                result.calls.append(Call(name))
            case CallArguments(text):
                assert result.calls[-1].is_complete is None
                result.calls[-1].arguments += text
            case CallEnd(is_complete):
                assert result.calls[-1].is_complete is None
                result.calls[-1].is_complete = is_complete
