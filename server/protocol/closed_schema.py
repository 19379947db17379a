"""Leaves the properties out of a JSON schema that nobody has declared."""

from typing import Any

# Where the schemas of an object's parts stand.
_MAPS = ("properties", "$defs", "definitions")
_LISTS = ("anyOf", "prefixItems")
_SINGLE = ("items", "additionalProperties")

_LISTING = {"properties", "patternProperties"}
# With these, several schemas judge one object, or one that an object must not fit: closing a part changes the whole.
_COMBINING = {"allOf", "oneOf", "not", "if", "contains", "dependentSchemas", "$dynamicRef", "$recursiveRef"}
# These say what other properties there may be, or must.
_OPENING = {
    "additionalProperties",
    "unevaluatedProperties",
    "minProperties",
    "dependentRequired",
    "dependencies",
}


def closed(schema: Any) -> Any:
    """The schema, with `additionalProperties: false` wherever an object lists its properties, or patterns of them, and
    says no more.

    Clients make schemas of classes and functions, and rarely say that these have no other members. A model takes what
    is left open as an invitation, and a weak one never comes to an end. What fits the result fits `schema` too. A
    schema that combines several for one object stays as it is.
    """
    return schema if _combines(schema) else _closed(schema)


def _combines(schema: Any) -> bool:
    waiting = [schema]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if value.keys() & _COMBINING or (value.keys() & _LISTING and value.keys() & {"$ref", "anyOf"}):
                return True
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return False


def _closed(schema: Any) -> Any:
    if not isinstance(schema, dict):
        return schema
    result = dict(schema)
    for key, value in schema.items():
        if key in _MAPS and isinstance(value, dict):
            result[key] = {name: _closed(inner) for name, inner in value.items()}
        elif key in _LISTS and isinstance(value, list):
            result[key] = [_closed(inner) for inner in value]
        elif key in _SINGLE:
            result[key] = _closed(value)
    if _lists_all(schema):
        result["additionalProperties"] = False
    return result


def _lists_all(schema: dict[str, Any]) -> bool:
    properties, required = schema.get("properties", {}), schema.get("required", [])
    return (
        bool(schema.keys() & _LISTING)
        and isinstance(properties, dict)
        and not schema.keys() & _OPENING
        and isinstance(required, list)
        and all(isinstance(name, str) and name in properties for name in required)
    )
