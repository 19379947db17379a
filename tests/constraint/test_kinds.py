"""Whatever is drawn, a complete text is one that a reference validator accepts, for each kind of grammar."""

import json
import re

import jsonschema
import pytest

from model.constraint import Compiler, Constraint
from model.grammar import Vocabulary
from server.text.tokenizer import Tokenizer
from tests.constraint.walks import BYTES, allowed, compiled, vocabulary_of, write
from tests.text import tokenizer_kinds

SCHEMAS = {
    "object": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "tags": {"type": "array", "items": {"enum": ["a", "b", 1, None]}, "maxItems": 3},
            "size": {"type": "number", "exclusiveMinimum": 0, "maximum": 10},
        },
        "required": ["name", "age"],
        "additionalProperties": False,
    },
    "const": {"const": {"a": [1, "ü", None, True]}},
    "any of": {"anyOf": [{"type": "boolean"}, {"type": "null"}, {"type": "string", "pattern": "^[a-c]{2,4}$"}]},
    "references": {
        "$defs": {"leaf": {"type": "integer"}, "pair": {"type": "array", "prefixItems": [{"$ref": "#/$defs/leaf"}]}},
        "type": "object",
        "properties": {"left": {"$ref": "#/$defs/pair"}, "right": {"$ref": "#/$defs/leaf"}},
        "required": ["left", "right"],
        "additionalProperties": False,
    },
    "recursive": {
        "$defs": {
            "node": {
                "type": "object",
                "properties": {
                    "value": {"type": "boolean"},
                    "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]},
                },
                "required": ["value", "next"],
                "additionalProperties": False,
            }
        },
        "$ref": "#/$defs/node",
    },
    "formats": {
        "type": "array",
        "prefixItems": [{"type": "string", "format": "date"}, {"type": "string", "format": "uuid"}],
        "minItems": 2,
        "maxItems": 2,
    },
    "anything": {"type": "object"},
}

REGEXES = [
    "a",
    "",
    "[a-f0-9]{8}",
    r"\d{3}-\d{4}",
    "(foo|bar)+x?",
    "[^\\n]{1,5}\\n",
    "ü|漢字|🙂",
    "^abc$",
    r"a\$",
    "(?i)yes|no",
]

CHOICES = [["yes", "no"], ["a", "ab", "abc"], ["möglich", "$^.*", "a\nb", '"'], ["", "x"]]


@pytest.fixture(scope="module", params=["llama2", "mistral", "smollm2", "llama3"])
def vocabulary(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    directory = getattr(tokenizer_kinds, request.param)(tmp_path_factory.mktemp(request.param))
    tokenizer = Tokenizer.load(directory)
    assert tokenizer.eos_token_id is not None
    return vocabulary_of(tokenizer, [tokenizer.eos_token_id])


@pytest.mark.parametrize("name", SCHEMAS)
def test_json_is_valid_for_its_schema(name: str) -> None:
    constraint = compiled("json_schema", json.dumps(SCHEMAS[name]))
    num_complete = 0
    for seed in range(12):
        text, is_complete = write(constraint, seed)
        if is_complete:
            num_complete += 1
            jsonschema.validate(json.loads(text), SCHEMAS[name])
    assert num_complete >= 3, "the others were cut"


@pytest.mark.parametrize("regex", REGEXES)
def test_a_regular_expression_matches_the_whole_text(regex: str) -> None:
    constraint = compiled("regex", regex)
    texts = [write(constraint, seed) for seed in range(10)]
    assert all(is_complete for _, is_complete in texts)
    assert all(re.fullmatch(regex, text.decode()) for text, _ in texts)


def test_a_recursive_grammar_writes_sums() -> None:
    constraint = compiled("lark", 'start: term ("+" term)*\nterm: /[1-9][0-9]*/ | "(" start ")"\n')
    texts = [write(constraint, seed, likes_end=0.5) for seed in range(20)]
    complete = [text.decode() for text, is_complete in texts if is_complete]
    assert len(complete) > 5
    for text in complete:
        assert set(text) <= set("0123456789+()")
        assert isinstance(eval(text), int)  # noqa: S307  # of digits, plus signs and brackets


def test_left_recursion_that_comes_to_an_end_is_a_grammar_as_any() -> None:
    text, is_complete = write(compiled("lark", 'start: start "a" | "b"'), 1)
    assert is_complete
    assert re.fullmatch("ba*", text.decode())


def test_a_text_on_tokens_of_any_tokenizer_is_valid(vocabulary: Vocabulary) -> None:
    compiler = Compiler(vocabulary)
    for kind, text in [("json_schema", json.dumps(SCHEMAS["object"])), ("regex", "[a-z ]{3,20}[.!?] ?(漢字)*")]:
        constraint = compiled(kind, text, compiler=compiler)
        results = [write(constraint, seed, vocabulary) for seed in range(8)]
        assert any(is_complete for _, is_complete in results)
        for written, is_complete in results:
            if is_complete and kind == "regex":
                assert re.fullmatch(text, written.decode())
            elif is_complete:
                jsonschema.validate(json.loads(written), SCHEMAS["object"])


@pytest.mark.parametrize("choices", CHOICES)
def test_masks_are_what_trying_every_token_says(vocabulary: Vocabulary, choices: list[str]) -> None:
    constraint = compiled("regex", "|".join(map(re.escape, choices)), compiler=Compiler(vocabulary))
    texts = [choice.encode() for choice in choices]
    ends = set(vocabulary.eos_ids)
    for target in texts:
        matcher, written = constraint.start(), b""
        while written != target:
            expected = {
                i
                for i, token in enumerate(vocabulary.tokens)
                if token and i not in vocabulary.special_ids and any(t.startswith(written + token) for t in texts)
            }
            assert allowed(matcher, vocabulary) == expected | (ends if written in texts else set())
            token_id = max(
                (i for i in expected if target.startswith(written + vocabulary.tokens[i])),
                key=lambda i: len(vocabulary.tokens[i]),
            )
            written += vocabulary.tokens[token_id]
            matcher.take([token_id])
        assert matcher.is_complete or ends <= allowed(matcher, vocabulary)


def test_whitespace_is_what_pretty_printers_write_and_no_more() -> None:
    constraint = compiled("json_schema", json.dumps(SCHEMAS["anything"]))
    value = {"a": [1, {"b": "x"}], "c": {}}
    for text in (
        json.dumps(value),
        json.dumps(value, separators=(",", ":")),
        json.dumps(value, indent=2),
        json.dumps(value, indent="\t"),
    ):
        assert accepts(constraint, text)
    assert not accepts(constraint, '{   "a":1}')
    assert not accepts(constraint, '{\n\n"a":1}')


def accepts(constraint: Constraint, text: str) -> bool:
    matcher = constraint.start()
    for byte in text.encode():
        token_id = BYTES.tokens.index(bytes([byte]))
        if matcher.is_complete or token_id not in allowed(matcher):
            return False
        matcher.take([token_id])
    return matcher.is_complete or set(BYTES.eos_ids) <= allowed(matcher)
