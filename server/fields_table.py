"""The page that says of every request field what the server does with it, made from the wire types.

python -m server.fields_table docs/fields.md
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin

from pydantic.fields import FieldInfo

from server.protocol.chat import ChatCompletionRequest
from server.protocol.completions import CompletionRequest
from server.protocol.wire import Refusal, WireModel

# The properties of these two requests in OpenAI's API document 2.3.0 of 2026-08-21.
OPENAI_COMPLETION_FIELDS = frozenset(
    """
    model prompt best_of echo frequency_penalty logit_bias logprobs max_tokens n presence_penalty seed stop stream
    stream_options suffix temperature top_p user
    """.split()  # noqa: SIM905
)
OPENAI_CHAT_FIELDS = frozenset(
    """
    messages model audio frequency_penalty function_call functions logit_bias logprobs max_completion_tokens max_tokens
    metadata modalities moderation n parallel_tool_calls prediction presence_penalty prompt_cache_key
    prompt_cache_options prompt_cache_retention reasoning_effort response_format safety_identifier seed service_tier
    stop store stream stream_options temperature tool_choice tools top_logprobs top_p user verbosity web_search_options
    """.split()  # noqa: SIM905
)
# Kept or logged, where OpenAI does the same: the answer is no other.
_KEPT = frozenset(
    (
        "user",
        "safety_identifier",
        "prompt_cache_key",
        "response_format.json_schema.name",
        "response_format.json_schema.description",
    )
)

_HEAD = """# Request fields

What the server does with each field. `null` is the same as leaving a field out. *Honoured* fields have their effect;
*kept* ones are accepted and change nothing in the answer, as at OpenAI; *refused* ones are answered with 400, and
`param` names the field. A field that is not listed is accepted with a warning (400 with `--strict-fields`). The fields
within messages and tools are described at `/docs` of a running server.

Made by `python -m server.fields_table docs/fields.md`; the tests send a request for each row.
"""


class Row(NamedTuple):
    """A field of a request."""

    name: str
    """With those that it lies within, as `stream_options.include_usage`."""
    status: str
    default: str
    values: str
    meaning: str


def page() -> str:
    """The page, in Markdown."""
    sections = [
        _section("POST /v1/completions", rows(CompletionRequest), OPENAI_COMPLETION_FIELDS),
        _section("POST /v1/chat/completions", rows(ChatCompletionRequest), OPENAI_CHAT_FIELDS),
    ]
    return "\n".join((_HEAD, *sections))


def rows(model: type[WireModel], path: str = "") -> Iterator[Row]:
    """A row for every field that the model knows, and for those of objects within; not within lists of objects."""
    schema = model.model_json_schema()
    for name, field in model.model_fields.items():
        shown = field.alias or name
        status = "kept" if path + shown in _KEPT else "honoured"
        values = _values(schema["properties"][shown], schema.get("$defs", {}))
        yield Row(path + shown, status, _default(field), values, (field.description or "").replace("\n", " "))
        for within in _objects(field):
            yield from rows(within, f"{path}{shown}.")
    for name, refusal in model.refused.items():
        yield Row(path + name, "refused", "", _harmless(refusal), refusal.reason)


def _objects(field: FieldInfo) -> list[type[WireModel]]:
    kinds = () if get_origin(field.annotation) is list else (field.annotation, *get_args(field.annotation))
    return [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, WireModel)]


def _section(title: str, all_rows: Iterator[Row], openai_fields: frozenset[str]) -> str:
    ordered = sorted(all_rows, key=lambda row: row.name)
    of_openai = [row for row in ordered if row.name.split(".")[0] in openai_fields]
    others = [row for row in ordered if row not in of_openai]
    return f"## {title}\n\n{_table(of_openai)}\n\nBeyond what OpenAI's takes here:\n\n{_table(others)}\n"


def _table(lines: list[Row]) -> str:
    head = ["| field | | default | values | effect, or what to do instead |", "|---|---|---|---|---|"]
    return "\n".join(head + ["| " + " | ".join((f"`{row.name}`", *map(_cell, row[1:]))) + " |" for row in lines])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return "" if field.default in (None, [], {}, "") else f"`{json.dumps(field.default)}`"


def _harmless(refusal: Refusal) -> str:
    taken = " ".join(f"`{json.dumps(value)}`" for value in refusal.harmless)
    return f"only {taken}" if taken else ""


def _values(schema: dict[str, Any], defs: dict[str, Any]) -> str:
    """A JSON schema in words."""
    if "anyOf" in schema:
        parts = [_values(part, defs) for part in schema["anyOf"] if part.get("type") != "null"]
        return " or ".join(dict.fromkeys(parts))
    if "$ref" in schema:
        return _values(defs[schema["$ref"].rpartition("/")[2]], defs)
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    match schema.get("type"):
        case "array":
            return f"list of {_values(schema.get('items', {}), defs) or 'values'}{_size(schema, 'Items', '')}"
        case "string":
            pattern = f" like `{schema['pattern']}`" if "pattern" in schema else ""
            return f"string{_size(schema, 'Length', ' characters')}{pattern}"
        case "integer" | "number" as kind:
            return f"{kind}{_range(schema)}"
        case kind:
            return str(kind or "")


def _size(schema: dict[str, Any], what: str, unit: str) -> str:
    most = schema.get(f"max{what}")
    return "" if most is None else f" (up to {most}{unit})"


def _range(schema: dict[str, Any]) -> str:
    if "minimum" not in schema:
        return ""
    return f" {_number(schema['minimum'])} to {_number(schema['maximum'])}"


def _number(value: float) -> str:
    # Bounds of machine integers are easier read as powers.
    for bits in (31, 63):
        if abs(value) in (2**bits, 2**bits - 1):
            return ("-" if value < 0 else "") + f"2^{bits}" + ("-1" if abs(value) != 2**bits else "")
    return f"{value:g}"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page())
