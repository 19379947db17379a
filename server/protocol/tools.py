"""The tools that a chat offers, the choice between them, and calls of them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, JsonValue

from server.errors import InvalidRequest
from server.protocol.common import Name, ToolName
from server.protocol.custom_tools import CustomCall, CustomDefinition
from server.protocol.structured import Form
from server.protocol.wire import WireModel

MAX_TOOLS = 128

_NO_PARAMETERS: dict[str, JsonValue] = {"type": "object", "properties": {}}


class _FunctionOrCustom(WireModel):
    discriminator = "type"
    members_of: ClassVar[Mapping[str, tuple[str, ...]]] = {"function": ("function",), "custom": ("custom",)}

    type: Literal["function", "custom"] = "function"
    """What kind of tool it is."""


class Function(WireModel):
    """What an assistant called."""

    name: Name
    """Its name."""
    arguments: str = "{}"
    """JSON."""
    parsed_arguments: JsonValue = None
    """Accepted: the arguments as OpenAI's clients have parsed them, which they send back beside them."""

    def for_template(self) -> dict[str, Any]:
        """Templates of models with tools want the arguments as an object; text that is none stays text."""
        try:
            arguments = json.loads(self.arguments)
        except (ValueError, RecursionError):
            arguments = None
        return {"name": self.name, "arguments": arguments if isinstance(arguments, dict) else self.arguments}


class ToolCall(_FunctionOrCustom):
    """A call within an assistant's message."""

    id: Name = ""
    """What the tool's answer refers to."""
    function: Function | None = None
    """The call of a function."""
    custom: CustomCall | None = None
    """The call of a custom tool."""

    def for_template(self) -> dict[str, Any]:
        """The call as chat templates expect it, to which every tool is a function."""
        call = self.function if self.type == "function" else self.custom
        assert call is not None
        return {"id": self.id, "type": "function", "function": call.for_template()}

    def check(self, path: str) -> None:
        """Raise InvalidRequest where what was called is missing. `path`: where the call stands."""
        if (self.function if self.type == "function" else self.custom) is None:
            raise _missing(self.type, f"{path}.{self.type}")


class FunctionDefinition(WireModel):
    """A function that the model may call."""

    name: ToolName
    """Its name: letters, digits, underscores and hyphens."""
    description: str | None = None
    """What it does, for the model."""
    parameters: dict[str, JsonValue] = _NO_PARAMETERS
    """JSON schema of the arguments, which are an object."""
    strict: bool = False
    """Accepted; arguments fit the schema with or without it, wherever calls are enforced."""

    def for_template(self) -> dict[str, Any]:
        """The function as a tool that chat templates describe."""
        function = {"name": self.name, "description": self.description, "parameters": self.parameters}
        return {"type": "function", "function": {key: value for key, value in function.items() if value is not None}}


class Tool(_FunctionOrCustom):
    """A tool: a function, or one that takes a text."""

    function: FunctionDefinition | None = None
    """The function."""
    custom: CustomDefinition | None = None
    """The tool that takes a text."""

    def offer(self, path: str) -> "Offer":
        """The tool as a function. `path`: where it stands. Raises InvalidRequest."""
        path = f"{path}.{self.type}"
        if self.type == "function" and self.function is not None:
            return Offer(self.function, path, f"{path}.parameters")
        if self.type == "custom" and (custom := self.custom) is not None:
            function = FunctionDefinition(
                name=custom.name, description=custom.description, parameters=custom.parameters(), strict=True
            )
            return Offer(
                function, path, f"{path}.format.grammar.definition", is_custom=True, input=custom.input_form(path)
            )
        raise _missing(self.type, path)


@dataclass(frozen=True, slots=True)
class Offer:
    """A tool of the request, as the model and the grammars know it."""

    function: FunctionDefinition
    path: str
    """Where it stands in the request."""
    schema_path: str
    """Where its arguments are described."""
    is_custom: bool = False
    """Whether its one argument is the input of a custom tool."""
    input: Form | None = None
    """What that input must match, if the tool says so."""


class ToolNamed(WireModel):
    """A tool of the request's own."""

    name: ToolName
    """Its name."""


class ToolReference(_FunctionOrCustom):
    """One tool of the request's own."""

    function: ToolNamed | None = None
    """The function."""
    custom: ToolNamed | None = None
    """The custom tool."""

    def named(self, param: str) -> str:
        """The tool's name. Raises InvalidRequest where it is missing."""
        tool = self.function if self.type == "function" else self.custom
        if tool is None:
            raise _missing(self.type, param)
        return tool.name


class AllowedTools(WireModel):
    """A part of the tools."""

    mode: Literal["auto", "required"]
    """Whether one of them must be called."""
    tools: list[ToolReference] = Field(min_length=1, max_length=MAX_TOOLS)
    """Those that may be called."""


class ToolChoice(WireModel):
    """Whether a tool is called, and which."""

    discriminator = "type"
    members_of: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "function": ("function",),
        "custom": ("custom",),
        "allowed_tools": ("allowed_tools",),
    }

    type: Literal["none", "auto", "required", "function", "custom", "allowed_tools"]
    """`none`, `auto` and `required` also stand alone, as strings."""
    function: ToolNamed | None = None
    """The function to call, for `function`."""
    custom: ToolNamed | None = None
    """The custom tool to call, for `custom`."""
    allowed_tools: AllowedTools | None = None
    """The tools to choose from, for `allowed_tools`."""


def _as_choice(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


def _as_function_choice(value: Any) -> Any:
    if isinstance(value, dict):
        return {"type": "function", "function": value}
    return _as_choice(value)


_Mode = Literal["none", "auto", "required"]
ToolChoiceField = Annotated[ToolChoice, BeforeValidator(_as_choice, json_schema_input_type=_Mode | ToolChoice)]
FunctionCallField = Annotated[
    ToolChoice, BeforeValidator(_as_function_choice, json_schema_input_type=Literal["none", "auto"] | ToolNamed)
]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools that one answer may call."""

    offers: tuple[Offer, ...] = ()
    """None: calls are not looked for, and the template hears of no tool."""
    is_required: bool = False
    """Whether the answer must be a call."""
    max_calls: int | None = None
    param: str = "tools"
    """The field they came in."""

    @property
    def names(self) -> frozenset[str]:
        """What calls are told by."""
        return frozenset(offer.function.name for offer in self.offers)

    @property
    def custom_names(self) -> frozenset[str]:
        """Those of custom tools."""
        return frozenset(offer.function.name for offer in self.offers if offer.is_custom)


def choose_tools(
    offers: Sequence[Offer], choice: ToolChoice | None, *, param: str, choice_param: str, is_single: bool
) -> ToolUse:
    """The tools that are left by the choice. Raises InvalidRequest for one that isn't there."""
    _check(offers)
    mode, wanted = ("auto" if offers else "none"), None
    if choice is not None:
        mode, wanted = _read_choice(choice, choice_param)
    if mode == "required" and not offers:
        raise InvalidRequest(f"{choice_param} needs {param}", param=choice_param)
    if wanted is not None and (unknown := wanted - {offer.function.name for offer in offers}):
        raise InvalidRequest(f"{min(unknown)!r} is not in {param}", param=choice_param)
    left = tuple(offer for offer in offers if wanted is None or offer.function.name in wanted)
    if mode == "none" or not left:
        return ToolUse()
    is_named = choice is not None and choice.type in ("function", "custom")
    return ToolUse(left, is_required=mode == "required", max_calls=1 if is_single or is_named else None, param=param)


def _read_choice(choice: ToolChoice, param: str) -> tuple[str, set[str] | None]:
    """none, auto or required, and the names to choose from if not all."""
    match choice:
        case ToolChoice(type="function", function=ToolNamed(name=name)):
            return "required", {name}
        case ToolChoice(type="custom", custom=ToolNamed(name=name)):
            return "required", {name}
        case ToolChoice(type="allowed_tools", allowed_tools=AllowedTools(mode=mode, tools=tools)):
            return mode, {tool.named(param) for tool in tools}
        case ToolChoice(type="function" | "custom" | "allowed_tools"):
            raise _missing(choice.type, param)
        case _:
            return choice.type, None


def _missing(kind: str, param: str) -> InvalidRequest:
    return InvalidRequest(f"of type {kind!r} needs the member {kind!r}", param=param)


def _check(offers: Sequence[Offer]) -> None:
    seen: set[str] = set()
    for offer in offers:
        function = offer.function
        if function.name in seen:
            raise InvalidRequest(f"{function.name!r} is there twice", param=f"{offer.path}.name")
        if function.parameters.get("type", "object") != "object":
            raise InvalidRequest("the arguments are an object: its type is 'object'", param=offer.schema_path)
        seen.add(function.name)
