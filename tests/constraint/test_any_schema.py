"""Whatever the schema and whatever is drawn, a complete text fits, or the schema was refused with a place."""

import json
import tracemalloc
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from model.constraint import Compiler, GrammarError
from model.grammar import Vocabulary
from server.errors import InvalidRequest
from server.protocol.structured import schema_form
from tests.constraint.test_kinds import accepts
from tests.constraint.walks import compiled, write

# Tokens of which JSON is made, and of which it should not be made: other spellings, numbers of odd forms, wrong dates.
PIECES = """{ } [ ] , : " {" "} ": , "a" "b" "ab" "a": "b": \\u0061 \\u0062 \\u00e9 \\ud83d\\udc32 \\ud83d \\u
\\n \\t \\u000a \\" \\/ \\\\ a b ab é 🐲 1 0 12 00 -1 -0 1.0 0.5 e99 E-5 1e400 . - + true false null
2021-02-29 2020-02-29 0000-01-01 T00:00:00Z 23:59:60Z 22:59:60Z 10:00:00+02:00 a@b.c ::1 127.0.0.1"""
BYTES = [bytes([byte]) for byte in range(256)]
TOKENS = [piece.encode() for piece in PIECES.split()] * 8 + BYTES[9:11] + BYTES[32:127]
VOCABULARY = Vocabulary([*TOKENS, b"</s>"], [len(TOKENS)], [len(TOKENS)])
COMPILER = Compiler(VOCABULARY)

NAMES = ["a", "b", "ab", "é", "a b", "", "\n"]
PATTERNS = ["^a", "b$", "^[a-c]{1,3}$", "^.$", "^[^a]*$", "a|b", r"^\d{2}$", "^(ab)*$", "[ ]"]
FORMATS = ["date", "time", "date-time", "ipv4", "ipv6", "uuid", "email"]
# Python's `fromisoformat` takes "+02:00:00" and the like, but nothing that the format forbids.
FORMAT_CHECKER = Draft202012Validator.FORMAT_CHECKER

Schema = dict[str, Any] | bool


def accepted(schema: Schema, text: str) -> bool:
    return accepts(compiled("json_schema", json.dumps(schema)), text)


@pytest.mark.parametrize("others", [None, True, {"type": "string"}, {}])
def test_a_listed_name_in_another_spelling_is_no_other_name(others: Schema | None) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}, "ab/": {"type": "null"}}}
    if others is not None:
        schema["additionalProperties"] = others
    for text in ('{"a":1,"c":"x"}', '{"c":"x"}', '{"":"x","ba":"y","abc":"z"}', '{"\\n":"x"}', '{"é🐲":"x"}'):
        assert accepted(schema, text), text
    for text in ('{"\\u0061":"x"}', '{"a\\u0062/":"x"}', '{"ab\\/":"x"}', '{"a":1,"a":"x"}', '{"a":"x"}'):
        assert not accepted(schema, text), text


def test_the_pattern_of_a_name_holds_for_every_spelling() -> None:
    schema = {"type": "object", "patternProperties": {"^a": {"type": "integer"}}}
    assert accepted(schema, '{"ab":1}')
    assert not accepted(schema, '{"\\u0061":"x"}')


def test_only_days_and_seconds_that_exist_are_dates_and_times() -> None:
    assert accepted({"format": "date"}, '"2024-02-29"')
    assert accepted({"format": "date"}, '"2000-02-29"')
    assert accepted({"format": "date-time", "pattern": "^2"}, '"2023-12-31T23:59:59Z"')
    assert accepted({"format": "date"}, "1")
    for date in ("2023-02-29", "1900-02-29", "0000-01-01", "2023-02-30"):
        assert not accepted({"format": "date"}, f'"{date}"'), date
        assert not accepted({"format": "date-time"}, f'"{date}T00:00:00Z"'), date
    assert not accepted({"format": "time"}, '"22:59:60Z"')
    assert not accepted({"format": "date-time", "allOf": [{"pattern": "^3"}]}, '"2023-12-31T23:59:59Z"')


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"items": {"type": "object", "minProperties": 2}}, "at /items: minProperties"),
        ({"patternProperties": {"^a": {}}, "additionalProperties": True}, "at /: beside patternProperties"),
        ({"properties": {"\x1b☃\n": {"minProperties": 2}}}, r"at /properties/ \u2603 : minProperties"),
        ({"$defs": {"a/b": {"required": ["\n"]}}}, "at /$defs/a~1b: beside properties"),
        ({"properties": {"x" * 300: {}}, "additionalProperties": {"type": "null"}}, "at /: beside properties"),
    ],
)
def test_what_the_library_takes_but_does_not_enforce_is_refused_or_a_warning(schema: Schema, place: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        schema_form(schema, "guided_json")
    assert str(refusal.value).startswith(place)
    assert refusal.value.param == "guided_json"
    warnings = schema_form(schema, "guided_json", is_lenient=True).warnings
    assert len(warnings) == 1
    assert warnings[0].startswith(place)


def test_a_long_name_takes_no_more_memory_than_its_length() -> None:
    schema = {"properties": {"x" * 20_000: {}}, "additionalProperties": {"type": "null"}}
    tracemalloc.start()
    try:
        schema_form(schema, "guided_json", is_lenient=True)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most_bytes < 2**20


def test_a_keyword_within_a_value_or_a_name_is_none() -> None:
    schema = {"properties": {"format": {"const": {"format": "date", "required": ["a"]}}, "enum": {"enum": ["date"]}}}
    assert accepted(schema, '{"format":{"format":"date","required":["a"]},"enum":"date"}')


def schemas() -> st.SearchStrategy[Schema]:
    values = st.sampled_from([0, 1, -1, 0.5, 1e3, "a", "b", "", "é", '"', "\n", "🐲", True, None, [], ["a"], {"a": 1}])
    bounds = st.sampled_from([0, 1, -1, 3, 10, -10, 0.5, -1.5, 99, 1e3])
    counts = st.integers(0, 3)
    leaves = st.one_of(
        st.sampled_from([True, False, {}, {"type": "boolean"}, {"type": "null"}, {"type": ["string", "null"]}]),
        st.lists(values, min_size=1, max_size=3).map(lambda these: {"enum": these}),
        values.map(lambda value: {"const": value}),
        st.fixed_dictionaries(
            {},
            optional={
                "type": st.sampled_from(["integer", "number"]),
                "minimum": bounds,
                "maximum": bounds,
                "exclusiveMinimum": bounds,
                "exclusiveMaximum": bounds,
                "multipleOf": st.integers(1, 7),
            },
        ),
        st.fixed_dictionaries(
            {},
            optional={
                "type": st.just("string"),
                "minLength": counts,
                "maxLength": st.integers(2, 6),
                "pattern": st.sampled_from(PATTERNS),
            },
        ),
        st.sampled_from(FORMATS).map(lambda name: {"type": "string", "format": name}),
        st.just({"$ref": "#/$defs/x"}),
    )
    return st.recursive(leaves, _compound, max_leaves=6)


def _compound(inner: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    counts, several = st.integers(0, 3), st.lists(inner, min_size=1, max_size=2)
    arrays = {
        "type": st.just("array"),
        "items": inner,
        "prefixItems": several,
        "minItems": counts,
        "maxItems": st.integers(2, 4),
    }
    objects = {
        "type": st.just("object"),
        "properties": st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
        "required": st.lists(st.sampled_from(NAMES), max_size=2, unique=True),
        "additionalProperties": inner,
        "patternProperties": st.dictionaries(st.sampled_from(PATTERNS), inner, min_size=1, max_size=1),
        "minProperties": counts,
        "maxProperties": st.integers(2, 4),
    }
    return st.one_of(
        st.fixed_dictionaries({}, optional=arrays),
        st.fixed_dictionaries({}, optional=objects),
        st.sampled_from(["anyOf", "allOf", "oneOf"]).flatmap(lambda keyword: several.map(lambda all: {keyword: all})),
    )


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(schema=schemas(), definition=schemas(), seed=st.integers(0, 2**32 - 1))
def test_a_complete_text_fits_any_schema_that_is_not_refused(schema: Schema, definition: Schema, seed: int) -> None:
    if isinstance(schema, dict):
        schema = {**schema, "$defs": {"x": definition}}
    try:
        constraint = COMPILER.compile(schema_form(schema, "guided_json").grammar)
        COMPILER.try_out(constraint)
    except (InvalidRequest, GrammarError):
        return
    for walk in range(4):
        text, is_complete = write(constraint, seed + walk, VOCABULARY, max_tokens=200)
        if is_complete:
            # A definition that needs itself to be judged can't be, by this validator.
            with suppress(RecursionError):
                Draft202012Validator(schema, format_checker=FORMAT_CHECKER).validate(json.loads(text))
