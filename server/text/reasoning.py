"""Tells what a model thinks from what it answers, where it writes tags around its thoughts."""

from dataclasses import dataclass

from server.text.events import Content, Reasoning
from server.text.source import Reading, Source


@dataclass(frozen=True, slots=True)
class ReasoningTags:
    """The tags of one kind of model."""

    name: str
    """As `--reasoning-parser` calls them."""
    opening: str
    closing: str

    def is_open_after(self, prompt: str) -> bool:
        """Whether a chat template has already written the opening tag."""
        return prompt.rstrip().endswith(self.opening)

    def read(self, source: Source, is_open: bool) -> Reading[None]:
        """Reads thoughts, if the text begins with some, and stops after them.

        Whatever comes before a closing tag that is missing is a thought. A tag later in the text is just text.
        """
        if not is_open:
            blank = yield from source.take_blank()
            if not (yield from source.take_whole(self.opening)):
                yield Content(blank)
                return
        yield from source.take_until(self.closing, Reasoning)


TAGS = {
    tags.name: tags
    for tags in (
        ReasoningTags("think", "<think>", "</think>"),
        ReasoningTags("mistral", "[THINK]", "[/THINK]"),
        ReasoningTags("seed_oss", "<seed:think>", "</seed:think>"),
    )
}
"""By name."""


def detect(template: str) -> ReasoningTags | None:
    """The tags that a chat template's text has; None if it has none."""
    return next((tags for tags in TAGS.values() if tags.closing in template or tags.opening in template), None)
