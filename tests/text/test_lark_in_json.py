"""A Lark grammar within JSON, tried on the matcher: a JSON string holds a text of it, and every such text."""

import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from model.constraint import Compiler, Constraint, MatchError
from model.grammar import Grammar, Vocabulary, member_term, string_term
from server.text.lark_in_json import lark_in_json
from server.text.regex_in_json import NotInJson
from tests.constraint.walks import allowed, write

EOS = 256
VOCABULARY = Vocabulary([*(bytes([i]) for i in range(256)), b"<eos>"], [EOS], [EOS])
COMPILER = Compiler(VOCABULARY)

TERMINALS = [
    *(r'/[^"]*/', r"/.*/", r"/(?s:.*)/", r"/(?s)./", r"/.b/s", r"/(a(?s).)(.)/", r"/((?s:.)|a)./"),
    *(r"/\n+/", r"/[\n\r]x/", r"/\s*a/", r"/\S+/", r"/\W/", r"/\D\d/", r"/[^a-z\n]+/", r"/[\x00-\x1f]/", r"/[ -~]+/"),
    *(r"/\x22/", r"/\x{22}\u{5C}/", r"/\\/", r'/[\\\]"]+/', r'/[]"]+/', r'/["^]/', r'/[^]"]/', r"/[a||b]+/"),
    *(r"/\p{P}+/", r"/\P{L}/", r"/[\p{Po}x]+/", r"/[^\pC]+/", r"/(?i:A\n[A-N])/", r"/a{2,3}\t/", r'/(?P<x>a|"b")/'),
    *(
        r"/\/+/",
        r"/a\/b/",
        r"/\-\ \#/",
        r'/é"|世/',
        r"/\x7f./",
        r'"\n"i',
        r'"A\"/"i',
        r'"a\u0000"',
        r'"\t".."\r"',
        '""',
    ),
]
TEXTS = st.text(st.sampled_from('"\\\n\r\t\0\x1f\x0b\x7faAbNntu01 /é世]x#-|'), max_size=4)

MATH = """
start: expr
expr: term (SP ADD SP term)* -> add
    | term
term: factor (SP MUL SP factor)* -> mul
    | factor
factor: INT | "(" expr ")"
SP: " "
ADD: "+"
MUL: "*"
%import common.INT
"""
EDIT = r"""
start: "*** Begin" LF hunk+ "*** End" LF?   // as a patch is written
hunk: "@@ " name LF line+
name: /[a-z"\\]{1,9}/
line: ("+" | "-" | " ") /(.{0,9})/ LF
%import common.LF
"""
SPACED = """
start: "{" [pair ("," pair)~0..2] "}"
pair: ESCAPED_STRING ":" NUMBER
%import common (ESCAPED_STRING, NUMBER)
%import common.WS -> _BLANK
%ignore _BLANK
"""


def compiled(text: str) -> Constraint:
    return COMPILER.compile(Grammar("lark", text))


def accepts(constraint: Constraint, text: str) -> bool:
    matcher = constraint.start()
    try:
        for byte in text.encode():
            if matcher.is_complete or byte not in allowed(matcher, VOCABULARY):
                return False
            matcher.take([byte])
    except MatchError:
        return False
    return matcher.is_complete or EOS in allowed(matcher, VOCABULARY)


def within(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


@pytest.mark.parametrize("terminal", TERMINALS)
def test_json_holds_the_texts_of_a_terminal_and_no_others(terminal: str) -> None:
    plain, quoted = compiled(f"start: {terminal}"), compiled(lark_in_json(f"start: {terminal}"))

    @settings(max_examples=60, deadline=None)
    @given(TEXTS)
    @example('"')
    @example("\n")
    @example("\\")
    @example("\x1f")
    def same(text: str) -> None:
        assert accepts(plain, text) == accepts(quoted, within(text))

    same()


@pytest.mark.parametrize("terminal", TERMINALS)
def test_what_is_ignored_stands_after_a_terminal_and_never_within(terminal: str) -> None:
    definition = f"start: {terminal}\n%ignore /[ \\n]/"
    plain, quoted = compiled(definition), compiled(lark_in_json(definition))

    @settings(max_examples=60, deadline=None)
    @given(TEXTS)
    @example("\n x")
    @example('a\n"')
    @example(" a")
    def same(text: str) -> None:
        # At the end of a text llguidance ignores only where more could come.
        ends = range(len(text.rstrip(" \n")), len(text) + 1)
        assert any(accepts(plain, text[:end]) for end in ends) == accepts(quoted, within(text))

    same()


@pytest.mark.parametrize(
    ("definition", "text", "other"),
    [
        ('start: S\nS: "\\"" /[a-z]+/ "\\""', '"abc"', '" abc "'),
        ("start: /a\\nb/", "a\nb", "a \nb"),
        (r'start: "say" "\"hi\""', 'say "hi"', 'say " hi"'),
        ('start: A+ ("," A)*\nA: "<" B ">"\nB: /[^>]/', '<a> <"> ,<\n>', '< ">'),
        ('start: [sub]\nsub: "(" start ")" | X~2\nX: "\\t"', "( ( \t \t ) )", "( \t\t \t)"),
    ],
)
def test_ignored_text_stands_between_terminals_alone(definition: str, text: str, other: str) -> None:
    definition += '\n%ignore " "'
    plain, quoted = compiled(definition), compiled(lark_in_json(definition))
    assert accepts(plain, text)
    assert accepts(quoted, within(text))
    assert not accepts(plain, other)
    assert not accepts(quoted, within(other))


@pytest.mark.parametrize("definition", [MATH, EDIT, SPACED])
@pytest.mark.parametrize("seed", range(5))
def test_whatever_is_drawn_the_input_is_a_text_of_the_grammar(definition: str, seed: int) -> None:
    input_term = member_term("input", string_term(lark_in_json(definition)))
    text, is_complete = write(compiled(f"start: {input_term}"), seed, VOCABULARY)
    if is_complete:
        assert accepts(compiled(definition), json.loads(text)["input"].rstrip())
    else:
        assert text.startswith(b"{")


@pytest.mark.parametrize(
    ("definition", "text"),
    [
        (MATH, "(1 + 2) * 30"),
        (EDIT, '*** Begin\n@@ a"\\\n+x\t"\n-\\n\n*** End'),
        (SPACED, '{ "a\\"b":\t1.5 ,\n"c" : 2 }'),
        ("start: LINE+\nLINE: TEXT LF\nTEXT: /.+/\n%import common.LF", 'a "b"\t\\n\n\\\n'),
        ("start: /(.|\\n)*/ /x/", '"\n\\x'),
    ],
)
def test_a_text_of_the_grammar_can_be_written(definition: str, text: str) -> None:
    quoted = compiled(f"start: {string_term(lark_in_json(definition))}")
    assert accepts(quoted, json.dumps(text, ensure_ascii=False))
    assert not accepts(quoted, json.dumps(f"{text[:-1]}#", ensure_ascii=False))


@pytest.mark.parametrize(
    ("line", "word"),
    [
        ('start: ~"a"', "~"),
        ("start: <[5]>", "<[5]>"),
        ("start: <|end|>", "<|end|>"),
        ('start: %json {"type": "string"}', "%json"),
        ("start: @other", "@other"),
        ('%llguidance {"no_forcing": false}', "%llguidance"),
        ("start: /[[:alpha:]]/", "class"),
        ("start: /[a-z&&[^b]]/", "class"),
        ("start: /(?x)a b/", "'x'"),
        ("start: /a b/x", "'x'"),
        (r"start: /\p{Greek}/", "Greek"),
        (r"%ignore /#[^\n]*/", "ignored"),
        ("A: B | C\nB: /[^b]/\nC: /c/\n%ignore A", "ignored"),
        ('start[lazy]: "a"', "start[lazy]"),
        ("start: /" + "(" * 99 + "a" + ")" * 99 + "/", "nested"),
    ],
)
def test_what_can_not_stand_in_json_is_refused_with_its_line(line: str, word: str) -> None:
    with pytest.raises(NotInJson, match="in line 3") as refusal:
        lark_in_json(f'a: "x\\n"\n# no line of "its own\n{line}')
    assert word in str(refusal.value)
