"""What a text may look like, and which texts a model's tokens are: plain data, as it crosses process borders."""

import json
from typing import Literal

import msgspec

from model.exact_schema import exact

# Whitespace between JSON's tokens: a space, or a line break with indentation, as pretty-printers write it. Were more
# allowed, a model that likes spaces would fill its answer with them.
_JSON_WHITESPACE = r"\x20|\x0A(\x20{0,24}|\x09{0,8})"


class Grammar(msgspec.Struct, frozen=True):
    """The set of texts that a request allows."""

    kind: Literal["json_schema", "regex", "lark"]
    text: str
    is_lenient: bool = False
    """Of a JSON schema: keywords that can't be enforced are left out, each with a warning, instead of refused."""


ANYTHING = Grammar("lark", "start: <[*]>*")
"""Allows every token everywhere."""


def json_term(schema: object, is_lenient: bool) -> str:
    """The JSON values that fit a schema, as a term of a Lark grammar; `is_lenient` as in Grammar."""
    if isinstance(schema, dict):
        schema = exact(schema) | {"x-guidance": {"whitespace_pattern": _JSON_WHITESPACE, "lenient": is_lenient}}
    return f"%json {json.dumps(schema)}"


def string_term(inside: str) -> str:
    """The JSON strings that hold, between their quotation marks, what a Lark grammar says, as a term of another one."""
    return f'"\\"" %lark {{\n{inside}\n}} "\\""'


def member_term(name: str, value: str) -> str:
    """The JSON objects of one member, whose value is this term."""
    blank = f"({_JSON_WHITESPACE})?"
    return f'/\\{{{blank}"{name}"{blank}:{blank}/ {value} /{blank}\\}}/'


class Vocabulary(msgspec.Struct, frozen=True):
    """What each token adds to a text."""

    tokens: list[bytes]
    """By id, one for each row of the model's embedding; empty where an id is no token."""
    special_ids: list[int]
    """Tokens that stand for no text: a grammar never allows them for their spelling."""
    eos_ids: list[int]
    """Tokens that end a text; at least one."""


class Verdict(msgspec.Struct, frozen=True):
    """What compiling a grammar said."""

    error: str = ""
    """Why it can't be used, for the person who wrote it; empty if it can."""
    warnings: list[str] = []
    """What a lenient grammar leaves unchecked."""
