"""What a tool-call dialect is."""

from dataclasses import dataclass
from typing import Protocol

from server.text.source import Reading, Source


@dataclass(frozen=True, slots=True)
class CallSyntax:
    """How calls are written, for a grammar that makes a model write some.

    Each field is text in parts, so that a part can be a special token. `before` holds `NAME` where the tool's name
    goes; between it and `after` stand the arguments as JSON.
    """

    before: tuple[str, ...]
    after: tuple[str, ...] = ()
    opening: tuple[str, ...] = ()
    """Before the first call."""
    between: tuple[str, ...] = ()
    closing: tuple[str, ...] = ()
    """After the last call."""
    has_keywords: bool = False
    """Whether the arguments are written as `name=JSON, ...`; where they can't be, calls are written as Llama's JSON."""
    has_words: bool = False
    """Whether words of the name may come before the part that holds the name, each after a space."""
    spelling: str = ""
    """Where calls begin without a mark: a regular expression for `before`, with which a text has begun like a call."""


class ToolFormat(Protocol):
    """One dialect in which models write tool calls. It has no state."""

    @property
    def name(self) -> str:
        """As `--tool-call-parser` calls it."""

    @property
    def markers(self) -> tuple[str, ...]:
        """What announces a call anywhere in a text. Perhaps special tokens, which a detokenizer must not leave out."""

    @property
    def syntax(self) -> CallSyntax:
        """One way to write calls that `read` understands, by which they can come first in an answer."""

    def read(self, source: Source, tool_names: frozenset[str]) -> Reading[None]:
        """Tells calls of these tools from all other text, which is content.

        A call begins, for good, when its name and the beginning of its arguments were read. What looks like one and
        isn't, or calls another tool, stays content to the last character. White space around calls is content here.
        """

    @property
    def mark(self) -> str | None:
        """What `syntax` writes first, if that is one of the markers: then a call can't be taken for anything else."""

    def template_id(self, call_id: str) -> str:
        """A call's id as chat templates of the dialect take it."""
