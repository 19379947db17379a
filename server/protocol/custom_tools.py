"""Custom tools, which take one text instead of arguments: models are told of them as functions of one string."""

from typing import Any, Literal

from pydantic import JsonValue

from server.errors import InvalidRequest
from server.protocol.common import Name, ToolName
from server.protocol.structured import Ebnf
from server.protocol.wire import WireModel

INPUT = "input"
"""The function's one parameter."""


class InputGrammar(WireModel):
    """`format.grammar`."""

    syntax: Literal["regex", "lark"]
    """`regex`; a Lark grammar can't be enforced within the JSON that calls are written in, and is refused."""
    definition: Ebnf
    """The grammar."""


class InputFormat(WireModel):
    """What an input looks like."""

    type: Literal["text", "grammar"]
    """Any text, or text of a grammar."""
    grammar: InputGrammar | None = None
    """The grammar, for the type `grammar`."""


class CustomDefinition(WireModel):
    """A custom tool that the model may call."""

    name: ToolName
    """Its name: letters, digits, underscores and hyphens."""
    description: str | None = None
    """What it does, for the model."""
    format: InputFormat = InputFormat(type="text")
    """What its input looks like."""

    def parameters(self, path: str) -> dict[str, JsonValue]:
        """The input as the parameters of a function. `path`: where the tool stands. Raises InvalidRequest."""
        pattern = self._pattern(f"{path}.format")
        text: dict[str, JsonValue] = {"type": "string"}
        if pattern is not None:
            text |= {"description": f"Matches the regular expression {pattern}", "pattern": f"^(?:{pattern})$"}
        return {"type": "object", "properties": {INPUT: text}, "required": [INPUT], "additionalProperties": False}

    def _pattern(self, path: str) -> str | None:
        if (self.format.type == "grammar") != (self.format.grammar is not None):
            raise InvalidRequest("grammar belongs to the type grammar", param=f"{path}.grammar")
        if self.format.grammar is None:
            return None
        if self.format.grammar.syntax == "lark":
            raise InvalidRequest(
                "a Lark grammar can't be enforced within the JSON that calls are written in: use the syntax regex",
                param=f"{path}.grammar.syntax",
            )
        return self.format.grammar.definition


class CustomCall(WireModel):
    """What an assistant called with a text."""

    name: Name
    """Its name."""
    input: str
    """The text."""

    def for_template(self) -> dict[str, Any]:
        """The call as that of a function."""
        return {"name": self.name, "arguments": {INPUT: self.input}}
