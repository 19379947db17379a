import json
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.text.source import Source
from server.text.tool_formats.registry import FORMATS, detect
from tests.text import templates
from tests.text.splitting import TOOLS, split

HARD = {"a": 'q"\\\n世</tool_call>[', "b": [-2.5e3, True, {}], "": None}
HARD_JSON = json.dumps(HARD)

WHOLE: dict[str, list[tuple[str, str, list[tuple[str, Any]]]]] = {
    "hermes": [
        ('<tool_call>\n{"name": "f", "arguments": {"a": 1}}\n</tool_call>', "", [("f", {"a": 1})]),
        ('So:\n<tool_call>{"name":"f","arguments":' + HARD_JSON + "}</tool_call>", "So:", [("f", HARD)]),
        (
            '<tool_call>{"arguments": {"a": [1]}, "name": "f"}</tool_call>\n'
            '<tool_call>{"id": [{}], "name": "g", "arguments": null, "x": "y"}</tool_call> Done.',
            "Done.",
            [("f", {"a": [1]}), ("g", {})],
        ),
        ('<tool_call>{"name": "f"}</tool_call>', "", [("f", {})]),
        ('<tool_call>{"name": "f", "arguments": {}}', "", [("f", {})]),
    ],
    "nexttoken": [
        ('<call> f {"a": 1}</call>', "", [("f", {"a": 1})]),
        ("So:\n<call> the good f " + HARD_JSON + "</call>", "So:", [("f", HARD)]),
        (
            '<call> f {}</call>\n<call> weather get_weather {"a": [1]}</call> Done.',
            "Done.",
            [("f", {}), ("get_weather", {"a": [1]})],
        ),
        ("<call> f {}", "", [("f", {})]),
    ],
    "llama3_json": [
        ('{"name": "f", "parameters": {"a": 1}}', "", [("f", {"a": 1})]),
        ('<|python_tag|>{"name": "f", "parameters": ' + HARD_JSON + "}", "", [("f", HARD)]),
        (
            ' {"type": "function", "name": "f", "parameters": {}}; {"name": "g", "arguments": {"x": "y"}}',
            "",
            [("f", {}), ("g", {"x": "y"})],
        ),
        ('Look: <|python_tag|>{"name": "f", "parameters": {}}\nbye', "Look:bye", [("f", {})]),
    ],
    "mistral": [
        ('[TOOL_CALLS][{"name": "f", "arguments": ' + HARD_JSON + "}]", "", [("f", HARD)]),
        (
            'Well. [TOOL_CALLS] [{"name": "f", "arguments": {"a": 1}}, {"arguments": {}, "name": "g"} ]',
            "Well.",
            [("f", {"a": 1}), ("g", {})],
        ),
        (
            "[TOOL_CALLS]f[ARGS]" + HARD_JSON + '[TOOL_CALLS]g[CALL_ID]abcdefghi[ARGS]{"b": 2}',
            "",
            [("f", HARD), ("g", {"b": 2})],
        ),
        ('[TOOL_CALLS]get_weather{"a": "b"}', "", [("get_weather", {"a": "b"})]),
    ],
    "pythonic": [
        ('[f(a=1), g(b="x")]', "", [("f", {"a": 1}), ("g", {"b": "x"})]),
        (
            """[ f( a = 'it\\'s "q"\\n\\x41\\u4e16\\d', b=[1, -2.5, True, None,], c={'k': {}, "l": [false]}, ) ] ok""",
            "ok",
            [("f", {"a": 'it\'s "q"\nA世\\d', "b": [1, -2.5, True, None], "c": {"k": {}, "l": [False]}})],
        ),
        ("[f()]", "", [("f", {})]),
        ('{"name": "f", "parameters": {"a": 1}}', "", [("f", {"a": 1})]),
    ],
}
WHOLE["mistral_array"] = WHOLE["mistral"]
SAMPLES = [(name, *sample) for name, samples in WHOLE.items() for sample in samples]

TEXT = [
    *((name, text) for name in FORMATS for text in ("", " ", "Hi.\n", "[see (a)] {b}: <c>", '{"a": 1}', "[1, 2]")),
    ("hermes", "<tool_call>"),
    ("hermes", "a <tool_call> b </tool_call> c"),
    ("hermes", '<tool_call>{"name": "unknown", "arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"arguments": {"a": 1}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": "x"}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arg'),
    ("hermes", "<tool_cal"),
    ("nexttoken", "<call>"),
    ("nexttoken", "a <call> b </call> c"),
    ("nexttoken", "<call> unknown {}</call>"),
    ("nexttoken", "<call> f x"),
    ("nexttoken", "<cal"),
    ("nexttoken", "<call> {}"),
    ("llama3_json", '{"name": "unknown", "parameters": {}}'),
    ("llama3_json", 'An object: {"name": "f", "parameters": {}}'),
    ("llama3_json", "<|python_tag|>f.call(x=1)"),
    ("mistral", "[TOOL_CALLS] f(x)"),
    ("mistral", "[TOOL_CALLS]f[ARGS]"),
    ("mistral", "[TOOL_CALLS]f[CALL_ID]x{}"),
    ("mistral", "[TOOL_CALLS][]"),
    ("pythonic", "[f(x)]"),
    ("pythonic", "[unknown(a=1)]"),
    ("pythonic", "[f(a"),
]


def parts_in_three(text: str) -> Any:
    return ([text[:i], text[i:j], text[j:]] for i, j in combinations(range(len(text) + 1), 2))


@pytest.mark.parametrize(("name", "text", "content", "calls"), SAMPLES)
def test_calls_are_told_from_text(name, text, content, calls):
    whole = split(text, name)
    assert whole.called == calls
    assert whole.content == content
    assert whole.finish_reason == "tool_calls"


@pytest.mark.parametrize(("name", "text"), TEXT)
def test_what_is_no_call_stays_text(name, text):
    whole = split(text, name)
    assert whole.content == text
    assert not whole.calls
    assert whole.finish_reason == "stop"


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, text, *_ in SAMPLES] + [pair for pair in TEXT if len(pair[1]) < 80]
)
def test_st05_pieces_cut_anywhere_give_the_whole(name, text):
    whole = split(text, name)
    assert split(text.rstrip(), name).calls == whole.calls
    assert split(list(text), name) == whole
    for pieces in parts_in_three(text):
        assert split(pieces, name) == whole


@pytest.mark.parametrize("name", FORMATS)
def test_st05_arguments_sent_so_far_are_the_beginning_of_all(name):
    for text, *_ in WHOLE[name]:
        whole = split(text, name)
        for end in range(len(text)):
            for so_far, call in zip(split(text[:end], name).calls, whole.calls, strict=False):
                assert so_far.name == call.name
                assert call.arguments.startswith(so_far.arguments)


@pytest.mark.parametrize("name", FORMATS)
def test_st02_an_unfinished_call_keeps_what_came_of_its_arguments(name):
    opening = {"pythonic": "[f(a=", "mistral": '[TOOL_CALLS]f[ARGS]{"a": ', "nexttoken": '<call> f {"a": '}.get(
        name, ""
    )
    opening = opening or {"hermes": "<tool_call>", "mistral_array": "[TOOL_CALLS][", "llama3_json": ""}[name] + (
        '{"name": "f", "arguments": {"a": '
    )
    unfinished = split(opening + '"word', name)
    assert [(call.arguments, call.is_complete) for call in unfinished.calls] == [('{"a": "word', False)]
    assert unfinished.content == ""
    assert unfinished.finish_reason == "stop"
    broken = split(opening + "word)}", name)
    assert [(call.arguments, call.is_complete) for call in broken.calls] == [('{"a": ', False)]
    assert broken.content.endswith(")}")


WORDS = (
    '<tool_call> </tool_call> [TOOL_CALLS] [ARGS] <|python_tag|> {"name":"f","arguments":{ } "name" : , "f" [f(a= '
    "<call> f </call> ' \" \\ [ ] ( ) 1 nul true é x"
)
MARKS = st.sampled_from([*WORDS.split(), " ", "\n"])


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(FORMATS)), st.lists(MARKS, max_size=25), st.data())
def test_st05_any_text_in_any_pieces_gives_the_same(name, marks, data):
    text = "".join(marks)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    whole = split(text, name)
    assert split([text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)], name) == whole
    for call in whole.calls:
        if call.is_complete:
            assert isinstance(call.value, dict)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text(), JSON, max_size=3), st.booleans())
def test_any_arguments_come_through_character_for_character(arguments, is_ascii):
    text = json.dumps(arguments, ensure_ascii=is_ascii)
    [call] = split(list(f'<tool_call>{{"name": "f", "arguments": {text}}}</tool_call>'), "hermes").calls
    assert call.is_complete
    assert call.arguments == text


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["a", "b2", "c_d"]), JSON, max_size=3))
def test_any_python_arguments_become_the_same_json(arguments):
    text = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    assert split(list(f"[f({text})]"), "pythonic").called == [("f", arguments)]


def test_faults_that_models_make_in_strings_are_mended():
    [call] = split('<tool_call>{"name": "f", "arguments": {"a": "x\ny\t\\d\\u12"}}</tool_call>', "hermes").calls
    assert call.value == {"a": "x\ny\t\\d\\u12"}


class CountingSource(Source):
    """Counts what a reader does."""

    num_steps = 0

    def peek(self):
        CountingSource.num_steps += 1
        return (yield from super().peek())


HOSTILE = ["[", "(a=", "<tool", '"', "\\", "'", "{", "[TOOL", '{"a":', " ", "[f(", "<tool_call>", "[TOOL_CALLS]"]
OPENINGS = ["", "<tool_call>", '<tool_call>{"name": "f", "arguments": {"a": ', "[f(a=", "[TOOL_CALLS]f[ARGS]"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("unit", HOSTILE)
def test_gr11_hostile_text_takes_linear_steps(name, unit, monkeypatch):
    monkeypatch.setattr("server.text.channels.Source", CountingSource)
    for opening in OPENINGS:
        for chop in (lambda text: [text], list):
            text = opening + unit * (2_000 // len(unit))
            CountingSource.num_steps = 0
            split(chop(text), name)
            assert CountingSource.num_steps <= 8 * len(text) + 50


@pytest.mark.parametrize("name", FORMATS)
def test_gr11_100_kb_of_anything_ends_well(name):
    for unit in HOSTILE:
        text = unit * (100_000 // len(unit))
        assert split(text, name).content == text


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("bomb", ['__import__("os").mkdir("x")', 'open("x", "w")', "[].append(1)", "1 + 1", "f'{1}'"])
def test_ld06_code_in_arguments_is_never_run(name, bomb, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in (
        f'<tool_call>{{"name": "f", "arguments": {bomb}}}</tool_call>',
        f'<tool_call>{{"name": "f", "arguments": {{"a": {bomb}}}}}</tool_call>',
        f'{{"name": "f", "parameters": {{"a": {bomb}}}}}',
        f"[TOOL_CALLS]f[ARGS]{bomb}",
        f'[TOOL_CALLS][{{"name": "f", "arguments": {bomb}}}]',
        f"[f(a={bomb})]",
        f"[{bomb}]",
    ):
        assert not any(call.is_complete for call in split(text, name).calls)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("template", "name"),
    [
        (templates.LLAMA31, "llama3_json"),
        ("{{ tools }} <tool_call>", "hermes"),
        ("{{ tools }} <call>", "nexttoken"),
        ("<tool_call><function=x><parameter=y>", None),
        ("[TOOL_CALLS] [", "mistral_array"),
        ("[TOOL_CALLS]name[ARGS]", "mistral"),
        ("[func_name1(params_name1=params_value1)]", "pythonic"),
        ("{{ tools }}", None),
    ],
)
def test_the_dialect_is_found_in_the_template(template, name):
    found = detect(template)
    assert (found and found.name) == name


def test_mistral_templates_get_ids_of_nine_letters_or_digits():
    mistral = FORMATS["mistral"]
    made = mistral.template_id("call_0123456789abcdef")
    assert len(made) == 9
    assert made.isalnum()
    assert made == mistral.template_id("call_0123456789abcdef") != mistral.template_id("call_other")
    assert mistral.template_id("abcDEF123") == "abcDEF123"
    assert FORMATS["hermes"].template_id("call_x") == "call_x"


def test_only_offered_tools_can_be_called():
    assert "h" not in TOOLS
    assert split('<tool_call>{"name": "h", "arguments": {}}</tool_call>', "hermes").calls == []
