"""Splits one choice's text, as it comes, into content, reasoning and tool calls."""

from dataclasses import dataclass

from server.text.custom_calls import CustomCalls
from server.text.events import CallEnd, Content, Event, Reasoning
from server.text.reasoning import ReasoningTags
from server.text.source import Reading, Source
from server.text.tool_formats.format import ToolFormat


@dataclass(frozen=True, slots=True)
class ChannelPlan:
    """Which channels a text has. Without tags, or without a tool format, their marks are content."""

    tags: ReasoningTags | None = None
    tool_format: ToolFormat | None = None
    tool_names: frozenset[str] = frozenset()
    custom_names: frozenset[str] = frozenset()
    """Those of the tools that take an input instead of arguments."""
    is_thinking: bool = False
    """Whether the prompt has already opened the tags."""
    max_calls: int | None = None
    """After so many calls the text is over."""

    @property
    def is_plain(self) -> bool:
        """Whether there is but one channel: all text is content."""
        return self.tags is None and self.tool_format is None

    @property
    def marks(self) -> tuple[str, ...]:
        """Spellings that have to be in the text even where they are special tokens."""
        tags = (self.tags.opening, self.tags.closing) if self.tags is not None else ()
        return tags + (self.tool_format.markers if self.tool_format is not None else ())


class Channels:
    """The split of one choice. What it gives doesn't depend on the pieces that the text came in."""

    def __init__(self, plan: ChannelPlan) -> None:
        self.is_reasoning = plan.tags is not None
        """Whether the text, as far as it has come, ends within the model's thoughts."""
        self.is_over = False
        """Whether whatever the model writes now is unwanted."""
        self._plan = plan
        self._is_plain = plan.is_plain
        self._source = Source()
        self._reading = self._read()
        self._custom_calls = CustomCalls(plan.custom_names)
        self._spaces = _Spaces(is_kept=plan.is_plain)
        self._num_calls = 0
        self._is_last_complete = False

    def push(self, text: str) -> list[Event]:
        """What is known with the next piece of text."""
        if self.is_over or not text:
            return []
        if self._is_plain:
            return [Content(text)]
        self._source.feed(text)
        return self._advance()

    def finish(self) -> list[Event]:
        """What was waiting for more text, of which there is none."""
        if self.is_over:
            return []
        self._source.end()
        return self._advance() + self._spaces.rest()

    def finish_reason(self, reason: str) -> str:
        """The choice's finish_reason, if its text ended for this one."""
        return "tool_calls" if reason == "stop" and self._is_last_complete else reason

    def _read(self) -> Reading[None]:
        plan = self._plan
        if plan.tags is not None:
            yield from plan.tags.read(self._source, plan.is_thinking)
        self.is_reasoning = False
        if plan.tool_format is not None:
            yield from plan.tool_format.read(self._source, plan.tool_names)
        while rest := (yield from self._source.take_rest()):
            yield Content(rest)

    def _advance(self) -> list[Event]:
        events: list[Event] = []
        for event in self._reading:
            if event is None:
                break
            events += [part for told in self._custom_calls.translate(event) for part in self._spaces.trim(told)]
            if isinstance(event, CallEnd):
                self._num_calls += 1
                self._is_last_complete = event.is_complete
                if self._num_calls == self._plan.max_calls:
                    self.is_over = True
                    break
        return events


class _Spaces:
    """Takes out the white space that belongs to marks: around thoughts, and between content and calls."""

    def __init__(self, is_kept: bool) -> None:
        self._is_kept = is_kept
        self._kind: type[Event] = Content
        self._is_beginning = False
        """Whether white space that comes now follows a mark."""
        self._held: list[str] = []

    def trim(self, event: Event) -> list[Event]:
        """The event without such white space, or with some that was held back and is needed after all."""
        if self._is_kept:
            return [event]
        if type(event) is not self._kind:
            self._kind, self._is_beginning = type(event), True
            self._held.clear()
        if not isinstance(event, (Content, Reasoning)):
            return [event]
        text = event.text.lstrip() if self._is_beginning else event.text
        words = text.rstrip()
        if not words:
            self._held += [text] if text else []
            return []
        self._is_beginning = False
        whole = "".join(self._held) + words
        self._held = [text[len(words) :]]
        return [type(event)(whole)]

    def rest(self) -> list[Event]:
        """What was held back when the text ended."""
        text = "".join(self._held)
        return [Content(text)] if text and self._kind is Content else []
