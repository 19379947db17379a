"""The OpenAPI document as one page of HTML to read, without scripts and without anything from elsewhere."""

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape

from server.api.docs_template import STYLE, TEMPLATE

Schema = Mapping[str, Any]

# Beyond what fits 32 bits, a bound is one of the machine's, and nothing to tell a reader.
MAX_TOLD_BOUND = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Field:
    """A row of a table of fields."""

    name: str
    schema: Schema
    is_required: bool

    @property
    def limits(self) -> str:
        """The range or the size of its values, in words."""
        return "; ".join(dict.fromkeys(filter(None, map(_limits, _options(self.schema)))))

    @property
    def default(self) -> str:
        """Its default as JSON; nothing where that says no more than that the field may be left out."""
        default = self.schema.get("default")
        return "" if default in (None, "", [], {}) else json.dumps(default)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A section of the page."""

    method: str
    path: str
    description: str
    body: str | None
    """Name of the body's schema."""
    example: Mapping[str, Any]
    """A body."""
    command: str
    """The same for a shell."""
    answers: list[tuple[str, str, str]]
    """Status, media type, and name of the schema or "" for plain text."""

    @property
    def anchor(self) -> str:
        """Its place on the page."""
        return re.sub(r"\W+", "-", f"{self.method}{self.path}").strip("-").lower()


def docs_page(document: Mapping[str, Any], base_url: str) -> str:
    """The page of an OpenAPI document, with examples for the server at this URL."""
    schemas = document["components"]["schemas"]
    endpoints = sorted(_endpoints(document["paths"], base_url), key=lambda endpoint: endpoint.body is None)
    bodies = {endpoint.body for endpoint in endpoints}
    types = {name: schema for name, schema in sorted(schemas.items()) if name not in bodies}
    return _PAGE.render(info=document["info"], endpoints=endpoints, schemas=schemas, types=types)


def _endpoints(paths: Mapping[str, Any], base_url: str) -> Iterator[Endpoint]:
    for path, operations in paths.items():
        for method, operation in operations.items():
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            example = content.get("example", {})
            yield Endpoint(
                method=method.upper(),
                path=path,
                description=operation.get("description", ""),
                body=_name(content["schema"]) if content else None,
                example=example,
                command=_curl(base_url + path, example),
                answers=list(_answers(operation["responses"])),
            )


def _answers(responses: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for status, response in responses.items():
        for media_type, content in response.get("content", {}).items():
            schema = content.get("schema", {})
            yield status, media_type, _name(schema) if "$ref" in schema else ""


def _curl(url: str, body: Any) -> str:
    quoted = shlex.quote(json.dumps(body, ensure_ascii=False))
    return f"curl {shlex.quote(url)} -H 'Content-Type: application/json' \\\n  -d {quoted}"


def _fields(schema: Schema, shown_first: Iterable[str] = ()) -> list[Field]:
    properties, required = schema["properties"], schema.get("required", ())
    names = dict.fromkeys([*required, *shown_first, *properties])
    return [Field(name, properties[name], name in required) for name in names]


def _options(schema: Schema) -> list[Schema]:
    """The kinds of value that the schema takes, but null, which every field takes for "not given"."""
    return [option for option in schema.get("anyOf", [schema]) if option.get("type") != "null"]


def _limits(schema: Schema) -> str:
    for lowest, highest, unit in (
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " items"),
        ("minProperties", "maxProperties", " keys"),
    ):
        low, high = (_told(schema.get(name)) for name in (lowest, highest))
        if low is not None and high is not None:
            return f"{low} to {high}{unit}"
        if low is not None:
            return f"{low}{unit} or more"
        if high is not None:
            return f"at most {high}{unit}"
    return ""


def _told(bound: float | None) -> float | None:
    return None if bound is None or abs(bound) >= MAX_TOLD_BOUND else bound


def _kind(schema: Schema) -> Markup:
    """The type of a value in words, with links to types that have a name."""
    return Markup(" or ").join(dict.fromkeys(map(_kind_of_one, _options(schema))))


def _kind_of_one(schema: Schema) -> Markup:
    match schema:
        case {"$ref": _}:
            name = _name(schema)
            return Markup('<a href="#{0}">{0}</a>').format(name)
        case {"const": value}:
            return _codes([value])
        case {"enum": values}:
            return _codes(values)
        case {"type": "array", "items": items}:
            kind = _kind(items)
            return Markup("list of ({})" if " or " in kind else "list of {}").format(kind)
        case {"type": "object", "additionalProperties": dict(values)}:
            return Markup("object of {}").format(_kind(values))
        case {"type": kind}:
            return escape(kind)
        case _:
            return Markup("any")


def _codes(values: Iterable[Any]) -> Markup:
    return Markup(" or ").join(Markup("<code>{}</code>").format(json.dumps(value)) for value in values)


def _name(reference: Schema) -> str:
    return str(reference["$ref"]).rsplit("/", 1)[-1]


def _prose(text: str) -> Markup:
    """A description, in which backquotes mark code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


_environment = Environment(autoescape=True)
_environment.filters |= {"fields": _fields, "kind": _kind, "prose": _prose}
_PAGE = _environment.from_string(TEMPLATE, globals={"style": Markup(STYLE)})
