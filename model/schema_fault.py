"""Says where in a JSON schema a fault is, in words that may go into logs, headers and terminals."""

import re
from collections.abc import Callable, Iterator
from typing import Any

# Bounds the time that explaining takes: the fault is then said to be somewhere below.
MAX_PROBES = 200
_MAX_POINTER = 120
_MAX_MESSAGE = 300

# What the library says, which names its own options and keys, and what we say instead.
_OUR_WORDS = (
    (r"Unimplemented keys: \[(.*)\]", r"\1 can't be enforced"),
    (r"oneOf constraints are not supported\..*", "oneOf can't be enforced where several options may fit; use anyOf"),
    (r"oneOf not fully supported, .*", "several options may fit: oneOf is enforced as anyOf"),
)


def find_fault(schema: Any, fails: Callable[[object], bool]) -> str:
    """JSON pointer of the smallest part of a schema that fails alone, given that the whole does."""
    whole = schema if isinstance(schema, dict) else {}
    definitions = {name: whole[name] for name in ("$defs", "definitions") if name in whole}
    part, pointer, num_probes = schema, "", 0
    while True:
        for step, inner in _parts(part):
            num_probes += 1
            if num_probes <= MAX_PROBES and fails(inner if not isinstance(inner, dict) else definitions | inner):
                part, pointer = inner, pointer + step
                break
        else:
            return pointer[:_MAX_POINTER] or "/"


def _parts(schema: Any) -> Iterator[tuple[str, Any]]:
    """The schemas directly inside of one, each with the pointer that leads there."""
    if not isinstance(schema, dict):
        return
    for keyword, value in schema.items():
        match value:
            case dict() if keyword in ("properties", "patternProperties", "$defs", "definitions"):
                yield from ((f"/{keyword}/{escape(name)}", inner) for name, inner in value.items())
            case dict() if keyword in ("items", "additionalProperties", "not", "if", "then", "else", "contains"):
                yield f"/{keyword}", value
            case list() if keyword in ("anyOf", "oneOf", "allOf", "prefixItems"):
                yield from ((f"/{keyword}/{index}", inner) for index, inner in enumerate(value))


def escape(name: str) -> str:
    """A name as a part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def in_our_words(reason: str) -> str:
    """What the grammar library says of a schema, for the person who wrote the schema; also bounded and visible."""
    for theirs, ours in _OUR_WORDS:
        reason = re.sub(theirs, ours, reason)
    return clean(reason)


def clean(text: str) -> str:
    """Bounded, and of visible ASCII."""
    visible = text.strip().encode("ascii", "backslashreplace").decode()
    return "".join(letter if letter.isprintable() else " " for letter in visible)[:_MAX_MESSAGE]
