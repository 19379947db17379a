"""Finds the dialect of a model by what its chat template says."""

from server.text.tool_formats.format import ToolFormat
from server.text.tool_formats.hermes import OPENING, Hermes
from server.text.tool_formats.llama3_json import PYTHON_TAG, Llama3Json
from server.text.tool_formats.mistral import ARGS, ARRAY, NAMED, TOOL_CALLS, Mistral
from server.text.tool_formats.nexttoken import OPENING as CALL
from server.text.tool_formats.nexttoken import Nexttoken
from server.text.tool_formats.pythonic import Pythonic

HERMES = Hermes()
LLAMA3_JSON = Llama3Json()

FORMATS: dict[str, ToolFormat] = {
    tool_format.name: tool_format
    for tool_format in (
        HERMES,
        LLAMA3_JSON,
        Pythonic(),
        Mistral("mistral", NAMED),
        Mistral("mistral_array", ARRAY),
        Nexttoken(),
    )
}
"""By name."""

_SIGNS = {
    # Dialects that nobody here reads, which share a mark with one that is read.
    "<function=": None,
    "<arg_key>": None,
    TOOL_CALLS + "[": "mistral_array",
    ARGS: "mistral",
    TOOL_CALLS: "mistral_array",
    OPENING: "hermes",
    CALL: "nexttoken",
    "func_name1(": "pythonic",
    PYTHON_TAG: "llama3_json",
    '"parameters": ': "llama3_json",
}
"""What a template's text holds, the most telling first, and the dialect that it is a sign of."""


def detect(template: str) -> ToolFormat | None:
    """The dialect that a template with tools teaches; None for one that nobody here reads."""
    for sign, name in _SIGNS.items():
        if sign in template:
            return FORMATS[name] if name is not None else None
    return None
