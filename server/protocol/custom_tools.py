"""Custom tools, which take one text instead of arguments: models are told of them as functions of one string."""

from typing import Any, Literal

from pydantic import JsonValue

from model.grammar import Grammar
from server.errors import InvalidRequest
from server.protocol.common import Name, ToolName
from server.protocol.structured import Ebnf, Form
from server.protocol.wire import WireModel

INPUT = "input"
"""The function's one parameter."""


class InputGrammar(WireModel):
    """`format.grammar`."""

    syntax: Literal["regex", "lark"]
    """`regex`, without look-around, or `lark`."""
    definition: Ebnf
    """The regular expression, which the whole input matches, or the grammar in Lark's own notation: its rules,
    terminals, `%ignore` and imports of `common`; neither nested character classes nor the flag `x`."""


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

    def input_form(self, path: str) -> Form | None:
        """What the input must match, if that was said. `path`: where the tool stands. Raises InvalidRequest."""
        grammar = self.format.grammar
        if (self.format.type == "grammar") != (grammar is not None):
            raise InvalidRequest("grammar belongs to the type grammar", param=f"{path}.format.grammar")
        if grammar is None:
            return None
        return Form(f"{path}.format.grammar.definition", Grammar(grammar.syntax, grammar.definition))

    def parameters(self) -> dict[str, JsonValue]:
        """The input as the parameters of a function."""
        text: dict[str, JsonValue] = {"type": "string"}
        if (grammar := self.format.grammar) is not None and grammar.syntax == "regex":
            pattern = grammar.definition
            text |= {"description": f"Matches the regular expression {pattern}", "pattern": f"^(?:{pattern})$"}
        elif grammar is not None:
            text |= {"description": f"Follows the Lark grammar\n{grammar.definition}"}
        return {"type": "object", "properties": {INPUT: text}, "required": [INPUT], "additionalProperties": False}


class CustomCall(WireModel):
    """What an assistant called with a text."""

    name: Name
    """Its name."""
    input: str
    """The text."""

    def for_template(self) -> dict[str, Any]:
        """The call as that of a function."""
        return {"name": self.name, "arguments": {INPUT: self.input}}
