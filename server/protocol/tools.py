"""The tools that a chat offers, the choice between them, and calls of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, JsonValue

from server.errors import InvalidRequest
from server.protocol.common import Name
from server.protocol.wire import WireModel

ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
MAX_TOOLS = 128

_NO_PARAMETERS: dict[str, JsonValue] = {"type": "object", "properties": {}}


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


class ToolCall(WireModel):
    """A call within an assistant's message."""

    id: Name = ""
    """What the tool's answer refers to."""
    type: Literal["function"] = "function"
    """Functions are the only kind."""
    function: Function
    """The call."""

    def for_template(self) -> dict[str, Any]:
        """The call as chat templates expect it."""
        return {"id": self.id, "type": "function", "function": self.function.for_template()}


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


class Tool(WireModel):
    """A tool, which is a function."""

    type: Literal["function"] = "function"
    """Functions are the only kind."""
    function: FunctionDefinition
    """The function."""


class FunctionName(WireModel):
    """A function of the request's own."""

    name: ToolName
    """Its name."""


class ToolReference(WireModel):
    """One tool of the request's own."""

    type: Literal["function"] = "function"
    """Functions are the only kind."""
    function: FunctionName
    """The function."""


class AllowedTools(WireModel):
    """A part of the tools."""

    mode: Literal["auto", "required"]
    """Whether one of them must be called."""
    tools: list[ToolReference] = Field(min_length=1, max_length=MAX_TOOLS)
    """Those that may be called."""


class ToolChoice(WireModel):
    """Whether a tool is called, and which."""

    type: Literal["none", "auto", "required", "function", "allowed_tools"]
    """`none`, `auto` and `required` also stand alone, as strings."""
    function: FunctionName | None = None
    """The function to call, for `function`."""
    allowed_tools: AllowedTools | None = None
    """The functions to choose from, for `allowed_tools`."""


def _as_choice(value: Any) -> Any:
    return {"type": value} if isinstance(value, str) else value


def _as_function_choice(value: Any) -> Any:
    if isinstance(value, dict):
        return {"type": "function", "function": value}
    return _as_choice(value)


_Mode = Literal["none", "auto", "required"]
ToolChoiceField = Annotated[ToolChoice, BeforeValidator(_as_choice, json_schema_input_type=_Mode | ToolChoice)]
FunctionCallField = Annotated[
    ToolChoice, BeforeValidator(_as_function_choice, json_schema_input_type=Literal["none", "auto"] | FunctionName)
]


@dataclass(frozen=True, slots=True)
class ToolUse:
    """The tools that one answer may call."""

    functions: tuple[FunctionDefinition, ...] = ()
    """None: calls are not looked for, and the template hears of no tool."""
    is_required: bool = False
    """Whether the answer must be a call."""
    max_calls: int | None = None
    param: str = "tools"
    """The field they came in."""
    paths: tuple[str, ...] = ()
    """Where each stood in the request."""

    @property
    def names(self) -> frozenset[str]:
        """What calls are told by."""
        return frozenset(function.name for function in self.functions)


def choose_tools(
    functions: Sequence[FunctionDefinition],
    choice: ToolChoice | None,
    *,
    param: str,
    choice_param: str,
    is_single: bool,
) -> ToolUse:
    """The tools that are left by the choice. Raises InvalidRequest for one that isn't there."""
    paths = [f"{param}.{index}.function" if param == "tools" else f"{param}.{index}" for index in range(len(functions))]
    _check(functions, paths)
    mode, wanted = ("auto" if functions else "none"), None
    if choice is not None:
        mode, wanted = _read_choice(choice, choice_param)
    if mode == "required" and not functions:
        raise InvalidRequest(f"{choice_param} needs {param}", param=choice_param)
    if wanted is not None and (unknown := wanted - {function.name for function in functions}):
        raise InvalidRequest(f"{min(unknown)!r} is not in {param}", param=choice_param)
    left = [i for i, function in enumerate(functions) if wanted is None or function.name in wanted]
    if mode == "none" or not left:
        return ToolUse()
    return ToolUse(
        functions=tuple(functions[i] for i in left),
        is_required=mode == "required",
        max_calls=1 if is_single or (choice is not None and choice.type == "function") else None,
        param=param,
        paths=tuple(paths[i] for i in left),
    )


def _read_choice(choice: ToolChoice, param: str) -> tuple[str, set[str] | None]:
    """none, auto or required, and the names to choose from if not all."""
    match choice:
        case ToolChoice(type="function", function=FunctionName(name=name)):
            return "required", {name}
        case ToolChoice(type="allowed_tools", allowed_tools=AllowedTools(mode=mode, tools=tools)):
            return mode, {tool.function.name for tool in tools}
        case ToolChoice(type="function" | "allowed_tools"):
            raise InvalidRequest(f"of type {choice.type!r} needs the member {choice.type!r}", param=param)
        case _:
            return choice.type, None


def _check(functions: Sequence[FunctionDefinition], paths: Sequence[str]) -> None:
    seen: set[str] = set()
    for function, path in zip(functions, paths, strict=True):
        if function.name in seen:
            raise InvalidRequest(f"{function.name!r} is there twice", param=f"{path}.name")
        if function.parameters.get("type", "object") != "object":
            raise InvalidRequest("the arguments are an object: its type is 'object'", param=f"{path}.parameters")
        seen.add(function.name)
