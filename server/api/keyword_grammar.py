"""Arguments as Python's keywords, `a=1, b="x"`, whose values are JSON, as a term of a grammar."""

import json
import re
from collections.abc import Sequence

from model.grammar import Grammar, json_term, string_term
from server.protocol.custom_tools import INPUT
from server.protocol.structured import MAX_GRAMMAR_CHARS

# What a schema of arguments may say that this can write: which properties there are, and what each is like.
_PLAIN = {"type", "properties", "required", "additionalProperties", "title", "description", "$schema"}
_DEFINITIONS = {"$defs", "definitions"}
# Each property is written as a schema of its own, which takes the definitions along and nothing else.
_OTHER_REFERENCE = re.compile(r'"\$ref":(?!\s*"#/(?:\$defs|definitions)/)')
_NAME = re.compile(r"[A-Za-z0-9_-]+")


def keyword_term(grammar: Grammar) -> str | None:
    """The keywords that fit a JSON schema, required ones first; None for a schema that says more than it can.

    Or that which holds the input of a custom tool.
    """
    if grammar.kind == "lark":
        return f'"{INPUT}=" {string_term(grammar.text)}'
    schema = json.loads(grammar.text)
    properties = schema.get("properties", {})
    if schema.keys() - _PLAIN - _DEFINITIONS or schema.get("additionalProperties") is not False:
        return None
    if not isinstance(properties, dict) or _OTHER_REFERENCE.search(grammar.text):
        return None
    # Each is written with all definitions, and optional ones with all that may follow.
    if len(properties) * len(grammar.text) > MAX_GRAMMAR_CHARS:
        return None
    if not all(_NAME.fullmatch(name) and isinstance(inner, dict) for name, inner in properties.items()):
        return None
    definitions = {key: schema[key] for key in _DEFINITIONS & schema.keys()}
    written = {
        name: f"{json.dumps(f'{name}=')} {json_term(inner | definitions, grammar.is_lenient)}"
        for name, inner in properties.items()
    }
    required = [name for name in properties if name in schema.get("required", [])]
    optional = [written[name] for name in properties if name not in required]
    if required:
        return ' ", " '.join(written[name] for name in required) + _rest(optional)
    choices = [first + _rest(optional[index + 1 :]) for index, first in enumerate(optional)]
    return f"({' | '.join(choices)})?" if choices else '""'


def _rest(optional: Sequence[str]) -> str:
    return "".join(f' (", " {one})?' for one in optional)
