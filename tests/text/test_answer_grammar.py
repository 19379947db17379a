"""Grammars of answers, tried on the matcher that follows them."""

import numpy as np
import pytest

from model.constraint import Compiler, mask_bytes
from model.grammar import Grammar, Vocabulary, json_term
from server.text.answer_grammar import AnswerRules, answer_grammar
from server.text.channels import ChannelPlan
from server.text.reasoning import TAGS
from server.text.tool_formats.registry import FORMATS
from tests.text.splitting import split

EOS = 256
SPECIAL = {"[TOOL_CALLS]": 257, "[ARGS]": 258, "</think>": 259, "<think>": 260, "<|python_tag|>": 261}
PARAMETERS = {
    "f": json_term({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}, False),
    "g": json_term({"type": "object", "properties": {}, "additionalProperties": False}, True),
}
KEYWORDS = {"f": f'"a=" {json_term({"type": "integer"}, False)}', "g": '""'}
FORM = json_term({"type": "object", "properties": {"x": {"const": 1}}, "required": ["x"]}, False)


@pytest.fixture(scope="module")
def compiler() -> Compiler:
    tokens = [bytes([i]) for i in range(256)] + [b"<eos>", *(text.encode() for text in SPECIAL)]
    return Compiler(Vocabulary(tokens, [EOS, *SPECIAL.values()], [EOS]))


def allows(compiler, grammar, text, special):
    """How much of the text the grammar lets a model write, and whether the answer may end after all of it."""
    matcher = compiler.compile(Grammar("lark", grammar)).start()
    row_W = np.zeros(mask_bytes(256 + 1 + len(SPECIAL)), dtype=np.uint8)
    position = 0
    while position < len(text):
        mark = next((mark for mark in special if text.startswith(mark, position)), None)
        for token in [special[mark]] if mark else text[position].encode():
            if not is_allowed(matcher, row_W, token):
                return text[:position]
            matcher.take([token])
        position += len(mark or text[position])
    return text + ("$" if matcher.is_complete or is_allowed(matcher, row_W, EOS) else "")


def is_allowed(matcher, row_W, token):
    if matcher.is_complete:
        return False
    matcher.write_mask(row_W, row_W.ctypes.data)
    return bool(np.unpackbits(row_W, bitorder="little")[token])


def rules(name, tags=None, *, max_calls=None, is_thinking=False, **options):
    plan = ChannelPlan(
        TAGS[tags] if tags else None,
        FORMATS[name] if name else None,
        frozenset(PARAMETERS),
        max_calls=max_calls,
        is_thinking=is_thinking,
    )
    parameters = KEYWORDS if name == "pythonic" else PARAMETERS
    return AnswerRules(plan, parameters if name else {}, **options)


CALLS = {
    "hermes": [
        '<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>',
        '<tool_call>\n{"name": "g", "arguments": {}}\n</tool_call>',
    ],
    "llama3_json": ['{"name": "f", "parameters": {"a": 1}}', '{"name": "g", "parameters": {}}'],
    "mistral": ['[TOOL_CALLS]f[ARGS]{"a": 1}', "[TOOL_CALLS]g[ARGS]{}"],
    "mistral_array": ['[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]'],
    "nexttoken": ['<call> f {"a": 1}</call>', "<call> g {}</call>", "<call> g g {}</call>"],
    "pythonic": ["[f(a=1)]", "[g()]", "[f(a=1), g()]"],
}
SPELLED = {
    "llama3_json": ['{"name":"f","arguments":{"a": 1}}', '{ "name" : "f",\n"parameters": {"a": 1}}'],
    "pythonic": ["[ f(a=1)]"],
}
BETWEEN = {"hermes": "\n", "nexttoken": "\n", "llama3_json": "; ", "mistral": ""}


@pytest.mark.parametrize("special", [{}, SPECIAL])
@pytest.mark.parametrize("name", FORMATS)
def test_required_calls_come_first_and_fit_their_schemas(compiler, name, special):
    grammar = answer_grammar(rules(name, is_required=True), special)
    for text in [*CALLS[name], *([BETWEEN[name].join(CALLS[name])] if name in BETWEEN else [])]:
        assert allows(compiler, grammar, text, special) == text + "$"
        assert split(text, name).finish_reason == "tool_calls"
        assert allows(compiler, grammar, text.replace("1", '"'), special) in (text[: text.find("1")], text + "$")
    assert allows(compiler, grammar, "Hello", special) == ""
    assert not allows(compiler, grammar, "", special)
    unknown = CALLS[name][0].replace("f", "h")
    assert allows(compiler, grammar, unknown, special) == unknown[: unknown.index("h")]


@pytest.mark.parametrize("name", BETWEEN)
def test_a_limit_of_one_call_is_kept(compiler, name):
    grammar = answer_grammar(rules(name, is_required=True, max_calls=1), {})
    text = BETWEEN[name].join(CALLS[name])
    assert allows(compiler, grammar, text, {}) == CALLS[name][0]


@pytest.mark.parametrize("special", [{}, SPECIAL])
@pytest.mark.parametrize("name", ["hermes", "mistral", "mistral_array", "nexttoken"])
def test_a_call_of_the_models_own_will_is_enforced_from_its_mark_on(compiler, name, special):
    grammar = answer_grammar(rules(name), special)
    call = CALLS[name][0]
    for text in ("", "Hello <tool [TOOL", call, f"So: {call} and {call}", BETWEEN.get(name, " ").join(CALLS[name])):
        assert allows(compiler, grammar, text, special) == text + "$"
    broken = f"Hi{call}".replace("1", "x")
    assert allows(compiler, grammar, broken, special) == broken[: broken.index("x")]


@pytest.mark.parametrize("special", [{}, SPECIAL])
@pytest.mark.parametrize("name", ["llama3_json", "pythonic"])
@pytest.mark.parametrize("tags", [None, "think"])
def test_without_a_mark_a_call_is_enforced_once_a_text_has_begun_like_one(compiler, name, special, tags):
    grammar = answer_grammar(rules(name, tags), special)
    calls, spelled = CALLS[name], [f"\n {CALLS[name][0]}", *SPELLED[name]]
    free = ["", "Hello", f"So: {calls[0]}", '{"name": "Ada", "parameters": {"a": "x"}}', "[1, 2]", " \n", "[h(a=1)]"]
    for text in [*free, *calls, *spelled, '{"name": "f", "x": 1}', '{"name": "f"}', "[f, 1]", "[f]"]:
        assert allows(compiler, grammar, text, special) == text + "$"
    for text in [*calls, *spelled]:
        assert split(text, name).finish_reason == "tool_calls"
        broken = text.replace("1", "x").replace("{}", "{x").replace("()", "(x")
        assert allows(compiler, grammar, broken, special) == broken[: broken.index("x")]
    assert allows(compiler, grammar, f"{calls[0]}Hi", special).rstrip("$") == calls[0]
    if "<|python_tag|>" in special:
        tagged = f"Hm. <|python_tag|>{calls[0]}"
        assert allows(compiler, grammar, tagged, special) == tagged + "$"
        assert allows(compiler, grammar, "<|python_tag|>print()", special) == "<|python_tag|>"
    if tags is not None:
        thought = f"<think>{calls[0]}</think>\n\n"
        for rest in ("Hi", "", calls[0]):
            assert allows(compiler, grammar, thought + rest, special) == thought + rest + "$"
        broken = thought + calls[0].replace("1", "x")
        assert allows(compiler, grammar, broken, special) == broken[: broken.rindex("x")]


def test_without_tools_nothing_is_enforced():
    assert answer_grammar(rules(None), {}) is None


@pytest.mark.parametrize("special", [{}, SPECIAL])
def test_thoughts_may_come_first(compiler, special):
    call = CALLS["hermes"][0]
    for form in ({"is_required": True}, {"form": FORM}):
        answer = call if "is_required" in form else '{"x": 1}'
        grammar = answer_grammar(rules("hermes", "think", **form), special)
        for text in (answer, f"<think>\nhm < 3\n</think>\n\n{answer}"):
            assert allows(compiler, grammar, text, special) == text + "$"
        assert allows(compiler, grammar, "<think>hm</think>no", special) == "<think>hm</think>"
        grammar = answer_grammar(rules("hermes", "think", is_thinking=True, **form), special)
        assert allows(compiler, grammar, f"hm</think>{answer}", special) == f"hm</think>{answer}$"
    text = f"<think>hm</think>Hi {call}"
    assert allows(compiler, answer_grammar(rules("hermes", "think"), special), text, special) == text + "$"


def test_a_form_holds_for_what_is_no_call(compiler):
    grammar = answer_grammar(rules("hermes", form=FORM), {})
    for text in ('{"x": 1}', CALLS["hermes"][0]):
        assert allows(compiler, grammar, text, {}) == text + "$"
    assert allows(compiler, grammar, "Hello", {}) == ""
    assert allows(compiler, grammar, '{"y', {}) == '{"'
    alone = answer_grammar(rules(None, "think", form=FORM), {})
    assert allows(compiler, alone, '<think>a</think>{"x": 1}', {}) == '<think>a</think>{"x": 1}$'
