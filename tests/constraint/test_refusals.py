"""A grammar that can't be used is refused with a reason and a place, and one that passes can be followed."""

import json

import pytest

from model.constraint import Compiler, GrammarError, MatchError
from model.grammar import Grammar, Vocabulary
from tests.constraint.walks import BYTES, COMPILER, allowed, compiled, write

FAULTS = {
    "not": (
        "json_schema",
        {"properties": {"a": {"items": {"not": {}}}}},
        "/properties/a/items",
        '"not" can\'t be enforced',
    ),
    "one of": ("json_schema", {"oneOf": [{}, {}]}, "at /:", "oneOf can't be enforced"),
    "type": ("json_schema", {"anyOf": [{"type": "string"}, {"type": "text"}]}, "/anyOf/1", "text"),
    "reference": ("json_schema", {"properties": {"a/b": {"$ref": "#/$defs/x"}}}, "/properties/a~1b", "not exist"),
    "remote": ("json_schema", {"items": {"$ref": "https://example.com/x"}}, "/items", "not present"),
    "pattern": ("json_schema", {"properties": {"a": {"pattern": "ab("}}}, "/properties/a", "character 3"),
    "bounds": ("json_schema", {"type": "integer", "minimum": 3, "maximum": 1}, "at /:", "minimum"),
    "false": ("json_schema", False, "at /:", "false"),
    "list": ("json_schema", [1], "at /:", "object or boolean"),
    "bracket": ("regex", "a(b", "character 2", "unclosed group"),
    "look-around": ("regex", "a(?=b)c", "character 2", "look-around"),
    "undefined": ("lark", 'start: "a"\n  | other', "in line", "other"),
    "no start": ("lark", 'a: "a"', "no start rule", "found"),
    "endless": ("lark", 'start: start "a"', "no text", "needs itself"),
    "circle": ("lark", "start: a\na: b\nb: a", "no text", "needs itself"),
    "dead end": ("lark", 'start: "a" x\nx: x "c"', "no text", "needs itself"),
    "items": ("lark", "start: " + '"a" | ' * 5000 + '"b"', "too complex", "5001 items"),
    "nested": ("lark", "start: " + "(" * 900 + '"a"' + ")" * 900, "nested", "deeply"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_gr07_a_fault_is_named_with_its_place(name: str) -> None:
    kind, grammar, *words = FAULTS[name]
    text = grammar if isinstance(grammar, str) else json.dumps(grammar)
    with pytest.raises(GrammarError) as refusal:
        COMPILER.try_out(compiled(kind, text))
    assert all(word in str(refusal.value) for word in words), str(refusal.value)
    assert len(str(refusal.value)) < 500
    assert str(refusal.value).isprintable()


def test_a_refusal_quotes_no_text_of_a_grammar_that_is_not_ascii() -> None:
    with pytest.raises(GrammarError) as refusal:
        compiled("json_schema", json.dumps({"properties": {"\x1b[31mü": {"type": "☃"}}}))
    assert str(refusal.value).isascii()
    assert str(refusal.value).isprintable()


@pytest.mark.parametrize("keyword", ["not", "contains", "uniqueItems", "dependentRequired", "if"])
def test_a_lenient_schema_leaves_out_what_can_not_be_enforced_and_says_so(keyword: str) -> None:
    value = {"uniqueItems": True, "dependentRequired": {"a": ["b"]}}.get(keyword, {"const": 1})
    schema = json.dumps({"type": "array", "items": {"type": "integer"}, keyword: value})
    with pytest.raises(GrammarError, match=keyword):
        compiled("json_schema", schema)
    lenient = compiled("json_schema", schema, is_lenient=True)
    (warning,) = lenient.warnings
    assert warning.endswith(" can't be enforced")
    assert f'"{keyword}"' in warning
    text, is_complete = write(lenient, 1)
    assert not is_complete or all(type(item) is int for item in json.loads(text))


def test_a_schema_can_not_set_the_compiler_s_own_options() -> None:
    schema = {"x-guidance": {"lenient": True, "whitespace_pattern": "x+"}, "type": "array", "uniqueItems": True}
    with pytest.raises(GrammarError, match="uniqueItems"):
        compiled("json_schema", json.dumps(schema))


def test_gr04_what_came_before_changes_no_verdict() -> None:
    compiler = Compiler(BYTES)
    broken = [Grammar("lark", "start: ("), Grammar("lark", "start: undefined_rule")]
    for grammar in [*broken, *reversed(broken)]:
        compiler.compile(Grammar("lark", 'start: "a"'))
        with pytest.raises(GrammarError):
            compiler.compile(grammar)


def test_gr09_a_text_that_has_ended_takes_nothing_and_says_so() -> None:
    constraint = compiled("regex", "a")
    matcher = constraint.start([BYTES.tokens.index(b"a")])
    assert matcher.is_complete
    with pytest.raises(MatchError):
        matcher.take([BYTES.tokens.index(b"a")])
    assert constraint.is_spent


def test_a_text_goes_on_where_its_tokens_have_led() -> None:
    constraint = compiled("regex", "abc|abd")
    a, b, c, d = (BYTES.tokens.index(letter) for letter in (b"a", b"b", b"c", b"d"))
    assert allowed(constraint.start([a, b])) == {c, d}
    assert allowed(constraint.start()) == {a}
    with pytest.raises(MatchError):
        constraint.start([b])


def test_ids_that_are_no_token_are_never_allowed() -> None:
    padded = Vocabulary([*BYTES.tokens, b"", b"", b""], BYTES.special_ids, BYTES.eos_ids)
    constraint = compiled("regex", "(?s:.)*", compiler=Compiler(padded))
    assert allowed(constraint.start(), padded) == set(range(256)) - not_starting_utf8() | set(BYTES.eos_ids)


def not_starting_utf8() -> set[int]:
    starts = {*range(0x80), *range(0xC2, 0xF5)}
    return {i for i in range(256) if BYTES.tokens[i][0] not in starts}


def test_a_text_that_the_model_s_tokens_can_not_spell_is_refused() -> None:
    tokens = [b"" if token == b"x" else token for token in BYTES.tokens]
    compiler = Compiler(Vocabulary(tokens, BYTES.special_ids, BYTES.eos_ids))
    with pytest.raises(GrammarError, match="no token can spell"):
        compiler.try_out(compiled("regex", "ax", compiler=compiler))
