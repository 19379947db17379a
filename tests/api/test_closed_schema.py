"""What a schema leaves open is filled with nothing."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from server.protocol.closed_schema import closed
from server.protocol.structured import schema_form

A = {"a": {"type": "integer"}}
NESTED = {
    "properties": {"list": {"items": {"properties": A}}, "one": {"$ref": "#/$defs/x"}},
    "$defs": {"x": {"properties": A}},
}


def test_objects_that_list_their_properties_get_no_others_at_any_depth() -> None:
    result = closed(NESTED)
    for fits in ({}, {"list": [{"a": 1}], "one": {"a": 1}}):
        assert Draft202012Validator(result).is_valid(fits)
    for other in ({"b": 1}, {"list": [{"b": 1}]}, {"one": {"b": 1}}):
        assert Draft202012Validator(NESTED).is_valid(other)
        assert not Draft202012Validator(result).is_valid(other)


def test_objects_that_list_patterns_of_their_properties_get_no_others() -> None:
    schema = {"properties": A, "patternProperties": {"^b": {}}}
    assert closed(schema) == schema | {"additionalProperties": False}


def test_a_grammar_is_made_of_the_closed_schema() -> None:
    assert '"additionalProperties":false' in schema_form({"properties": {}}, "guided_json").grammar.text


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"properties": A, "additionalProperties": True},
        {"properties": A, "additionalProperties": {"type": "string"}},
        {"patternProperties": {"^b": {}}, "required": ["b"]},
        {"patternProperties": {"^b": {}}, "anyOf": [{"properties": A}, {"required": ["a"]}]},
        {"properties": A, "required": ["a", "b"]},
        {"properties": A, "minProperties": 2},
        {"properties": A, "anyOf": [{"properties": {"b": {}}}, {"required": ["c"]}]},
        {"properties": A, "$ref": "#/$defs/x", "$defs": {"x": {"properties": {"b": {}}}}},
        {"allOf": [{"properties": A}, {"properties": {"b": {}}}]},
        {"oneOf": [{"properties": A}, {"properties": A, "required": ["a"]}]},
        {"not": {"properties": A}},
        True,
        {"properties": 5},
    ],
)
def test_a_schema_that_speaks_of_other_properties_or_combines_several_stays(schema: Any) -> None:
    assert closed(schema) == schema


SCHEMAS = st.recursive(
    st.sampled_from([{}, {"type": "integer"}, {"enum": ["x", 1, None]}]),
    lambda inner: st.one_of(
        st.fixed_dictionaries(
            {"properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=2)},
            optional={
                "patternProperties": st.dictionaries(st.sampled_from(["^a", "b"]), inner, max_size=1),
                "type": st.just("object"),
                "required": st.lists(st.sampled_from("abc"), unique=True, max_size=2),
                "additionalProperties": inner,
                "allOf": st.lists(inner, min_size=1, max_size=2),
                "anyOf": st.lists(inner, min_size=1, max_size=2),
            },
        ),
        st.fixed_dictionaries({"items": inner}),
        st.fixed_dictionaries({"anyOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"oneOf": st.lists(inner, min_size=1, max_size=2)}),
        st.fixed_dictionaries({"not": inner}),
    ),
    max_leaves=6,
)
VALUES = st.recursive(
    st.sampled_from(["x", 1, 2.5, None]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)


@given(SCHEMAS, VALUES)
def test_what_fits_the_closed_schema_fits_the_schema(schema: Any, value: Any) -> None:
    if Draft202012Validator(closed(schema)).is_valid(value):
        assert Draft202012Validator(schema).is_valid(value)
