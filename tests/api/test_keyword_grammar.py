"""Keywords that a grammar allows are read as arguments that fit their schema."""

import json

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.grammar import Grammar
from server.api.keyword_grammar import keyword_term
from server.protocol.structured import MAX_GRAMMAR_CHARS
from tests.constraint.walks import compiled, write
from tests.text.splitting import split

VALUES = [
    {"type": "integer"},
    {"type": "string", "maxLength": 5},
    {"enum": [True, None, "é\"'\\/"]},
    {"type": "array", "items": {"$ref": "#/$defs/x"}, "maxItems": 2},
    {"type": "number", "minimum": -5, "maximum": 5},
]


def schema_of(values: list[dict], num_required: int) -> dict:
    names = [f"p{index}" for index in range(len(values))]
    return {
        "type": "object",
        "properties": dict(zip(names, values, strict=True)),
        "required": names[:num_required],
        "additionalProperties": False,
        "$defs": {"x": {"type": "object", "properties": {"y": {"type": "boolean"}}, "additionalProperties": False}},
    }


@given(st.lists(st.sampled_from(VALUES), max_size=4), st.integers(0, 4), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_whatever_is_written_is_read_as_arguments_of_the_schema(values: list, num_required: int, seed: int) -> None:
    schema = schema_of(values, num_required)
    term = keyword_term(Grammar("json_schema", json.dumps(schema)))
    text, is_complete = write(compiled("lark", f'start: "[f(" {term} ")]"'), seed, max_tokens=300)
    if is_complete:
        [(name, arguments)] = split(text.decode(), "pythonic").called
        assert name == "f"
        jsonschema.validate(arguments, schema)


def test_any_choice_of_optional_keywords_can_be_written() -> None:
    schema = schema_of([{"const": 1}] * 3, 0)
    constraint = compiled("lark", f"start: {keyword_term(Grammar('json_schema', json.dumps(schema)))}")
    found = {write(constraint, seed)[0].decode() for seed in range(200)}
    assert found == {
        ", ".join(f"p{i}=1" for i in np.flatnonzero([bits >> i & 1 for i in range(3)])) for bits in range(8)
    }


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {"a": {}}, "additionalProperties": True},
        {"type": "object", "properties": {"a b": {}}, "additionalProperties": False},
        {"type": "object", "properties": {"a": {}}, "additionalProperties": False, "minProperties": 1},
        {"type": "object", "properties": {"a": True}, "additionalProperties": False},
        {"type": "object", "properties": {"a": {"$ref": "#"}}, "additionalProperties": False},
        {"type": "object", "properties": {"a": {}, "b": {"$ref": "#/properties/a"}}, "additionalProperties": False},
        {"type": "object", "properties": ["a"], "additionalProperties": False},
        {"type": "object", "properties": None, "additionalProperties": False},
    ],
)
def test_a_schema_that_says_more_has_no_keywords(schema: dict) -> None:
    assert keyword_term(Grammar("json_schema", json.dumps(schema))) is None


def test_no_term_is_longer_than_a_grammar_may_be() -> None:
    term = keyword_term(Grammar("json_schema", json.dumps(schema_of([{}] * 40, 0))))
    assert term is not None
    assert len(term) <= MAX_GRAMMAR_CHARS
    for schema in (schema_of([{}] * 1000, 0), schema_of([{}] * 30, 30) | {"definitions": {"x" * 9000: {}}}):
        assert keyword_term(Grammar("json_schema", json.dumps(schema))) is None
