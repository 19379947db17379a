"""What a model's chat template says of tools and of thinking."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from server.text import reasoning
from server.text.reasoning import TAGS, ReasoningTags
from server.text.template import ChatTemplate
from server.text.tool_formats import registry
from server.text.tool_formats.format import ToolFormat
from server.text.tool_formats.registry import FORMATS, HERMES
from server.text.tool_prompt import with_tools_in_text

Message = Mapping[str, Any]

# Variables by which templates switch thinking on and off.
_SWITCHES = ("enable_thinking", "thinking")


@dataclass(frozen=True, slots=True)
class Dialect:
    """How one model is told of tools and of thinking, and how it answers."""

    tool_format: ToolFormat | None = None
    """How it writes calls; None if nobody knows."""
    tags: ReasoningTags | None = None
    """What it writes around its thoughts, if it has any."""
    has_tools_in_text: bool = False
    """Whether the template knows of no tools, so that they have to be described in a message."""
    variables: frozenset[str] = frozenset()
    """What the template reads."""

    def messages(self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]) -> list[Message]:
        """The messages as the template needs them."""
        if self.has_tools_in_text:
            return with_tools_in_text(messages, tools)
        return [_with_ids(message, self.tool_format) for message in messages] if self.tool_format else list(messages)

    @property
    def switches(self) -> list[str]:
        """The template's variables that switch thinking on and off."""
        return [name for name in _SWITCHES if name in self.variables]

    def effort(self, effort: str) -> dict[str, Any]:
        """The template's variables for a `reasoning_effort`; none if it has none that makes the difference."""
        found: dict[str, Any] = dict.fromkeys(self.switches, effort != "none")
        if "reasoning_effort" in self.variables and effort != "none":
            found["reasoning_effort"] = effort
        return found


def dialect_of(template: ChatTemplate, tool_call_parser: str = "auto", reasoning_parser: str = "auto") -> Dialect:
    """The dialect that a template's text shows, where the settings don't name another."""
    dialect = Dialect(
        tool_format=registry.detect(template.source) if tool_call_parser == "auto" else FORMATS[tool_call_parser],
        tags=reasoning.detect(template.source) if reasoning_parser == "auto" else TAGS.get(reasoning_parser),
        variables=template.variables,
    )
    if "tools" in template.variables:
        return dialect
    tool_format = HERMES if tool_call_parser == "auto" else dialect.tool_format
    # What is described in a message is described in this one dialect: there is no way to tell of tools in another.
    is_hermes = tool_format is HERMES
    return replace(dialect, tool_format=tool_format if is_hermes else None, has_tools_in_text=is_hermes)


def _with_ids(message: Message, tool_format: ToolFormat) -> Message:
    """The message with its calls' ids as the dialect has them."""
    changed: dict[str, Any] = {}
    if (answered := message.get("tool_call_id")) is not None:
        changed["tool_call_id"] = tool_format.template_id(answered)
    if calls := message.get("tool_calls"):
        changed["tool_calls"] = [
            {**call, "id": tool_format.template_id(call["id"])} if "id" in call else call for call in calls
        ]
    return {**message, **changed}
