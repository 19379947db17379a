"""The fields that give a text its form: what is let in, and what is refused with the field's name."""

import json
from pathlib import Path

import httpx
import pytest

from model.gbnf import lark_from_gbnf
from model.grammar import Grammar
from server.app import create_app
from server.served import ServedModel, ServedModels
from server.settings import Settings
from server.text.tokenizer import Tokenizer
from tests.api.serving import TOKENIZER, Served, ask, refused, serve
from tests.constraint.hostile import bodies
from tests.fakes import chat_template
from tests.text import tokenizer_kinds

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
FORMAT = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}


@pytest.fixture(scope="module")
def served() -> Served:
    """One app, so that the processes that check grammars start once."""
    return serve("ok", max_model_len=4096)


def completion(served: Served, **fields: object) -> httpx.Response:
    return ask(served, "/v1/completions", {"prompt": "x", "max_tokens": 3, **fields})


def chat(served: Served, **fields: object) -> httpx.Response:
    return ask(served, "/v1/chat/completions", {**CHAT, "max_tokens": 3, **fields})


def grammar_of(served: Served) -> Grammar | None:
    _, params, *_ = served.engine.calls[-1]
    return params.grammar


OBJECT = Grammar("json_schema", '{"type": "object"}')
OF_SCHEMA = Grammar("json_schema", json.dumps(SCHEMA, separators=(",", ":")))
LENIENT = Grammar("json_schema", OF_SCHEMA.text, True)

MEANINGS: list[tuple[dict[str, object], Grammar | None]] = [
    ({"guided_json": SCHEMA}, OF_SCHEMA),
    ({"guided_json": json.dumps(SCHEMA)}, OF_SCHEMA),
    ({"guided_regex": "[a-z]+"}, Grammar("regex", "[a-z]+")),
    ({"guided_choice": ["yes", "n.o"]}, Grammar("regex", "yes|n\\x{2E}o")),
    ({"guided_grammar": 'root ::= "a"'}, Grammar("lark", lark_from_gbnf('root ::= "a"'))),
    ({"grammar": 'root ::= "a"'}, Grammar("lark", lark_from_gbnf('root ::= "a"'))),
    ({"json_schema": SCHEMA}, OF_SCHEMA),
    ({"response_format": {"type": "json_object", "schema": SCHEMA}}, OF_SCHEMA),
    ({"response_format": {"type": "json_schema", "schema": SCHEMA}}, OF_SCHEMA),
    ({"guided_json": None, "structured_outputs": None}, None),
    ({"structured_outputs": {"json": SCHEMA}}, OF_SCHEMA),
    ({"structured_outputs": {"regex": "[a-z]+"}}, Grammar("regex", "[a-z]+")),
    ({"structured_outputs": {"choice": ["ü"]}}, Grammar("regex", "\\x{FC}")),
    ({"structured_outputs": {"grammar": 'start: "a"'}}, Grammar("lark", 'start: "a"')),
    ({"structured_outputs": {"json_object": True}}, OBJECT),
    ({"response_format": {"type": "text"}}, None),
    ({"response_format": {"type": "json_object"}}, OBJECT),
    ({"response_format": FORMAT}, OF_SCHEMA),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}}, LENIENT),
]


@pytest.mark.parametrize(("fields", "grammar"), MEANINGS)
def test_each_field_reaches_the_engine_from_both_endpoints(
    served: Served, fields: dict[str, object], grammar: Grammar | None
) -> None:
    for post in (completion, chat):
        answer = post(served, **fields)
        assert answer.status_code == 200, answer.text
        assert "x-nexttoken-warnings" not in answer.headers
        assert grammar_of(served) == grammar


REFUSALS = {
    "two fields": ({"guided_json": {}, "guided_regex": "a"}, "guided_regex", "guided_json"),
    "two at once": ({"structured_outputs": {"json": {}, "regex": "a"}}, "structured_outputs.regex", "not together"),
    "none": ({"structured_outputs": {}}, "structured_outputs", "give one"),
    "none wanted": ({"structured_outputs": {"json_object": False}}, "structured_outputs", "give one"),
    "bad keyword": ({"guided_json": {"properties": {"a": {"not": {}}}}}, "guided_json", "/properties/a"),
    "bad schema": ({"structured_outputs": {"json": {"type": "x"}}}, "structured_outputs.json", "Invalid type"),
    "no JSON": ({"guided_json": "{"}, "guided_json", "not JSON"),
    "bad regex": ({"guided_regex": "a("}, "guided_regex", "character 2"),
    "no choice": ({"guided_choice": []}, "guided_choice", "at least 1"),
    "bad grammar": ({"guided_grammar": "root ::= ("}, "guided_grammar", "line 1"),
    "undefined rule": ({"guided_grammar": "root ::= undefined_rule"}, "guided_grammar", "undefined_rule"),
    "nothing matches": ({"guided_grammar": 'root ::= root "a"'}, "guided_grammar", "no text matches"),
    "deep schema": ({"guided_json": '{"items":' * 80 + "{}" + "}" * 80}, "guided_json", "64 levels"),
    "large schema": ({"guided_json": {"enum": ["x" * 300_000]}}, "guided_json", "characters"),
    "large regex": ({"guided_regex": "a" * 300_000}, "guided_regex", "at most"),
    "many references": (
        {"guided_json": {"anyOf": [{"$ref": "#/$defs/a"}] * 1001, "$defs": {"a": {}}}},
        "guided_json",
        "1000 $ref",
    ),
    "whitespace": (
        {"structured_outputs": {"json": {}, "whitespace_pattern": " "}},
        "structured_outputs.whitespace_pattern",
        "not supported",
    ),
    "tag": (
        {"structured_outputs": {"json": {}, "structural_tag": "x"}},
        "structured_outputs.structural_tag",
        "write it as a grammar",
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_gr08_what_can_not_be_is_refused_at_the_door_by_the_name_of_its_field(served: Served, name: str) -> None:
    fields, param, words = REFUSALS[name]
    for post in (completion, chat):
        num_tokens = served.engine.num_tokens
        error = refused(post(served, **fields))
        assert error["param"] == param
        assert words in error["message"]
        assert served.engine.num_tokens == num_tokens, "nothing was generated"


@pytest.mark.parametrize(
    ("response_format", "param"),
    [
        ({"type": "json"}, "response_format.type"),
        ({}, "response_format.type"),
        ({"type": "json_schema"}, "response_format.json_schema"),
        ({"type": "text", "json_schema": {"name": "x"}}, "response_format.json_schema"),
        ({"type": "text", "schema": SCHEMA}, "response_format.schema"),
        ({"type": "json_schema", "schema": {}, "json_schema": {"name": "x"}}, "response_format.schema"),
        ({"type": "json_schema", "json_schema": {}}, "response_format.json_schema.name"),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {"not": {}}}},
            "response_format.json_schema.schema",
        ),
    ],
)
def test_a_response_format_that_contradicts_itself_is_refused(
    served: Served, response_format: dict[str, object], param: str
) -> None:
    assert refused(chat(served, response_format=response_format))["param"] == param


def test_what_a_schema_that_is_not_strict_leaves_out_is_a_warning(served: Served) -> None:
    schema = {"type": "array", "uniqueItems": True}
    answer = chat(served, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    assert answer.status_code == 200
    assert "uniqueItems" in answer.headers["x-nexttoken-warnings"]


def test_gr04_a_valid_grammar_before_a_broken_one_changes_nothing(served: Served) -> None:
    broken = ["root ::= (", "root ::= undefined_rule"]
    for text in [*broken, *reversed(broken)]:
        assert completion(served, guided_grammar='root ::= "a"').status_code == 200
        assert refused(completion(served, guided_grammar=text))["param"] == "guided_grammar"


@pytest.mark.slow
def test_gr01_gr06_gr07_hostile_grammars_are_refused_or_served_and_the_server_stays_well(served: Served) -> None:
    for body in bodies():
        # Encoded here: half of a surrogate pair is no text, but can be written in JSON.
        content = json.dumps({"prompt": "x", "max_tokens": 3, **body}).encode()
        answer = ask(served, "/v1/completions", content, **{"content-type": "application/json"})
        assert answer.status_code in (200, 400), f"{str(body)[:200]}: {answer.text}"
        if answer.status_code == 400:
            refused(answer)
    assert completion(served).status_code == 200


def test_a_model_whose_tokens_have_no_text_of_their_own_takes_no_grammar(tmp_path: Path) -> None:
    words = Tokenizer.load(tokenizer_kinds.word_piece(tmp_path))
    model = ServedModel(("words",), words, chat_template(TOKENIZER), serve().engine, created=1)
    app = create_app(Settings(), ServedModels([model]), version="0.0.0")
    error = refused(completion(Served(app, serve().engine, model), guided_regex="a"))
    assert error["param"] == "guided_regex"
    assert "tokenizer" in error["message"]
