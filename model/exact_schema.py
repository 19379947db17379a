"""Rewrites a JSON schema so that the grammar library takes it at its word.

Found with the official test suite and with random schemas: the library knows a listed name by one spelling alone, so
that `"\\u0061"` passes for another name than "a"; it takes the 29th of February of any year, and leap seconds at any
minute; and it counts a name that stands twice as two.
"""

from collections.abc import Iterator
from typing import Any

from model.schema_fault import clean, escape

# Of a schema, what holds schemas by name, and what holds values that are none.
_MAPS = ("properties", "patternProperties", "$defs", "definitions")
_VALUES = ("enum", "const", "default", "examples")

# Bounds the pattern that stands for all names but those listed, of some eight characters for each of these.
_MAX_OTHER_NAMES = 4_000
_MAX_POINTER = 120

_YEAR = r"(?:000[1-9]|00[1-9]\d|0[1-9]\d\d|[1-9]\d{3})"
_LEAP_YEAR = r"(?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DATE = rf"^(?:{_YEAR}-(?:(?:0[13-9]|1[0-2])-|02-[01]|02-2[0-8])|{_LEAP_YEAR}-02-29)"
# Leap seconds, which the formats allow at one minute of the day, are left out.
_TIME = r":\d\d:[0-5]\d"
_FORMATS = {"date": (_DATE,), "time": (_TIME,), "date-time": (_DATE, _TIME)}


def exact(schema: Any) -> Any:
    """A schema that the library reads as it is meant: it means the same, or less where `find_gaps` finds a gap."""
    if isinstance(schema, list):
        return [exact(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    result = {keyword: _exact_inside(keyword, value) for keyword, value in schema.items()}
    if patterns := _FORMATS.get(str(schema.get("format"))):
        result["allOf"] = [*_list(result, "allOf"), *({"pattern": pattern} for pattern in patterns)]
    if "patternProperties" in schema:
        result["additionalProperties"] = False
    elif _is_open(schema) and (names := _names(schema)):
        # Names that match a pattern have one spelling, so a pattern stands for all the others.
        others = _all_but(names, schema.get("additionalProperties", True))
        result["patternProperties"] = {} if others is None else {others: result.get("additionalProperties", True)}
        result["additionalProperties"] = False
    return result


def find_gaps(schema: Any, pointer: str = "") -> Iterator[str]:
    """What of a schema can't be enforced although the library takes it, each with the JSON pointer that leads there."""
    if isinstance(schema, list):
        for index, inner in enumerate(schema):
            yield from find_gaps(inner, f"{pointer}/{index}")
    if not isinstance(schema, dict):
        return
    yield from (clean(f"at {pointer[:_MAX_POINTER] or '/'}: {gap}") for gap in _gaps_here(schema))
    for keyword, value in schema.items():
        if keyword in _MAPS and isinstance(value, dict):
            for name, inner in value.items():
                yield from find_gaps(inner, f"{pointer}/{keyword}/{escape(name)}")
        elif keyword not in _VALUES:
            yield from find_gaps(value, f"{pointer}/{keyword}")


def _gaps_here(schema: dict[str, Any]) -> Iterator[str]:
    has_patterns = "patternProperties" in schema
    if not _is_open(schema) and not has_patterns:
        return
    if _is_open(schema) and has_patterns:
        yield "beside patternProperties, additionalProperties must be false"
    elif _all_but(_names(schema), schema.get("additionalProperties", True)) is None:
        yield "beside properties so many, so long or with control characters, additionalProperties must be false"
    least = schema.get("minProperties", 0)
    # A name that isn't listed may be written twice, and counts once.
    if isinstance(least, int) and least > len(_list(schema, "required")) + 1:
        yield "minProperties must not be greater than the number of required properties and one"


def _exact_inside(keyword: str, value: Any) -> Any:
    if keyword in _MAPS and isinstance(value, dict):
        return {name: exact(inner) for name, inner in value.items()}
    return value if keyword in _VALUES else exact(value)


def _is_open(schema: dict[str, Any]) -> bool:
    """Whether an object may have members that are not listed."""
    return schema.get("additionalProperties", True) is not False


def _names(schema: dict[str, Any]) -> list[str]:
    """The members that are listed."""
    properties = schema.get("properties")
    names = [*(properties if isinstance(properties, dict) else ()), *_list(schema, "required")]
    return [name for name in names if isinstance(name, str)]


def _list(schema: dict[str, Any], keyword: str) -> list[Any]:
    value = schema.get(keyword)
    return value if isinstance(value, list) else []


def _all_but(names: list[str], others: Any) -> str | None:
    """A pattern for the names whose values are to fit the schema `others`: all but these. None if there is none.

    A name differs from all of these after some beginning that it has in common with one: for each beginning, what
    may follow it.
    """
    if any(letter < " " or letter == "\x7f" for name in names for letter in name):
        # They have two spellings even where a pattern is matched.
        return None
    if others is True or others == {}:
        # These fit it too.
        return ""
    beginnings: dict[str, set[str]] = {}
    num_characters = 0
    for name in names:
        for length in range(len(name) + 1):
            beginning = name[:length]
            num_characters += 0 if beginning in beginnings else length
            if num_characters > _MAX_OTHER_NAMES:  # looked at here, for one long name would fill the memory
                return None
            beginnings.setdefault(beginning, set()).update(name[length : length + 1])
    listed = set(names)
    options = [
        f"{_literal(beginning)}(?:{_none_of(letters)}.*{'' if beginning in listed else '|'})"
        for beginning, letters in beginnings.items()
    ]
    return f"^(?s:{'|'.join(options)})$"


def _none_of(letters: set[str]) -> str:
    return f"[^{''.join(map(_literal, sorted(letters)))}]" if letters else "."


def _literal(text: str) -> str:
    return "".join(f"\\x{{{ord(letter):X}}}" for letter in text)
