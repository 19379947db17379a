"""A grammar in GBNF allows, once it is written in Lark's notation, the same texts as before."""

import itertools
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.constraint import GrammarError, MatchError
from model.gbnf import as_lark, lark_from_gbnf
from model.gbnf.syntax import Char, Choice, Expression, Ref, Repeat, Rules, Sequence, parse
from tests.constraint.walks import BYTES, compiled

MAX_LEN = 4
LETTERS = "ab("


def texts_of(rules: Rules) -> set[str]:
    """All texts of the grammar with at most MAX_LEN of these letters, found rule by rule until none is new."""
    found: dict[str, set[str]] = {name: set() for name in rules}

    def joined(firsts: set[str], seconds: set[str]) -> set[str]:
        return {first + second for first in firsts for second in seconds if len(first + second) <= MAX_LEN}

    def texts(expression: Expression) -> set[str]:
        match expression:
            case Char(ranges):
                return {letter for letter in LETTERS if any(first <= ord(letter) <= last for first, last in ranges)}
            case Ref(name):
                return found[name]
            case Choice(options):
                return set().union(*map(texts, options))
            case Sequence(parts):
                whole = {""}
                for part in parts:
                    whole = joined(whole, texts(part))
                return whole
            case Repeat(of, least, most):
                inner, whole, power = texts(of), set[str](), {""}
                for times in range(least + MAX_LEN + 1 if most is None else most + 1):
                    whole |= power if times >= least else set()
                    power = joined(power, inner)
                return whole
        raise AssertionError(expression)

    while True:
        before = sum(map(len, found.values()))
        for name, rule in rules.items():
            found[name] = found[name] | texts(rule)
        if sum(map(len, found.values())) == before:
            return found["root"]


def texts_allowed(lark: str) -> set[str]:
    """All texts of at most MAX_LEN of these letters that a walk through the compiled grammar can end with."""
    constraint = compiled("lark", lark)
    allowed = set()
    for length in range(MAX_LEN + 1):
        for letters in itertools.product(LETTERS, repeat=length):
            token_ids = [BYTES.tokens.index(letter.encode()) for letter in letters]
            try:
                constraint.start([*token_ids, BYTES.eos_ids[0]])
            except MatchError:
                continue
            allowed.add("".join(letters))
    return allowed


def grammars() -> st.SearchStrategy[str]:
    names = ["root", "x", "y-z"]
    atoms = st.sampled_from(
        ['"a"', '"b"', '"ab"', '"ba"', '"("', "[ab]", "[^b]", "[a]*", "[ab]+", '""', ".", "x", "y-z", "root"]
    )
    suffixes = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{1,2}", "{0}", "?+"])
    items = st.builds("{}{}".format, atoms, suffixes)
    groups = st.builds("({} {}){}".format, items, items, suffixes)
    sequences = st.lists(items | groups, min_size=1, max_size=3).map(" ".join)
    bodies = st.lists(sequences, min_size=1, max_size=3).map(" | ".join)
    return st.tuples(bodies, bodies, bodies).map(
        lambda rules: "\n".join(f"{name} ::= {body}" for name, body in zip(names, rules, strict=True))
    )


@settings(max_examples=150, deadline=None)
@given(grammars())
def test_the_texts_are_those_of_the_grammar(text: str) -> None:
    expected = texts_of(parse(text))
    try:
        allowed = texts_allowed(lark_from_gbnf(text))
    except GrammarError:
        # Where no text comes to an end, some part of it the library sees.
        assert not expected
        return
    assert allowed == expected


KNOWN = {
    "a word before one of its letters": ('root ::= w "b"\nw ::= [a-z]+', ["ab", "bb"], ["b", "a"]),
    "a word beside its letters": ('root ::= ("begin" | [a-z])+ root?', ["bex", "begin", "beginx"], ["B"]),
    "words like keywords": (
        'root ::= "if" ws x | [a-z]+ ws "=" ws x\nx ::= "(" x ")" | [a-z]+\nws ::= " "*',
        ["if x", "if (if)", "ifx=(y)", "if = i", "i=if"],
        ["if", "=x"],
    ),
    "blanks that a line's end may be": (
        'root ::= (expr "=" ws term "\\n")+\nexpr ::= term ([-+*/] term)*\n'
        'term ::= ident | num | "(" ws expr ")" ws\nident ::= [a-z] [a-z0-9_]* ws\nnum ::= [0-9]+ ws\n'
        "ws ::= [ \\t\\n]*",
        ["a=1\n", "a +b1=c \n\n", "(a)=1\n", "a=1\nb=2\n"],
        ["a=1", "1a=\n"],
    ),
    "nothing": ('root ::= ""', [""], ["a"]),
    "any character": ("root ::= . .", ["ü\n", "漢🙂"], ["a"]),
}


@pytest.mark.parametrize("name", KNOWN)
def test_a_lexer_takes_no_text_away(name: str) -> None:
    grammar, texts, others = KNOWN[name]
    constraint = compiled("lark", lark_from_gbnf(grammar))
    for text in [*texts, *others]:
        token_ids = [BYTES.tokens.index(bytes([byte])) for byte in text.encode()]
        if text in texts:
            constraint.start([*token_ids, BYTES.eos_ids[0]])
        else:
            with pytest.raises(MatchError):
                constraint.start([*token_ids, BYTES.eos_ids[0]])


def test_words_of_a_recursive_grammar_are_one_lexeme_each() -> None:
    lark = lark_from_gbnf('root ::= item ("," item)*\nitem ::= [a-z]+ | "(" root ")"')
    assert "LEXEME-1: (/[a-z]/){1,}\n" in lark
    assert lark.count("LEXEME-") == 2 * 4


def test_a_grammar_without_recursion_is_one_lexeme() -> None:
    assert lark_from_gbnf('root ::= "SELECT " name " FROM " name\nname ::= [a-z]{1,9}').count("LEXEME-") == 2


ODD = {
    "doubling": "".join(f"r{i} ::= r{i + 1} r{i + 1}\n" for i in range(60)) + 'r60 ::= "a"\nroot ::= r0',
    "many rules": "".join(f'r{i} ::= "a" r{i + 1} | r{i // 2}\n' for i in range(999)) + 'r999 ::= "x"\nroot ::= r0',
    "a long literal": 'root ::= "' + "ab" * 16_000 + '" root | "x"',
    "a large class": f"c ::= [{''.join(map(chr, range(0x4E00, 0x8E00, 2)))}]\nroot ::= (c+ {'c ' * 150}) root | c",
    "blank lines": 'root ::= "a"\n' + " \n" * 16_000,
    "groups in rules in rules": "".join(f"r{i} ::= {'(' * 30} r{i + 1} root | [b] {')?' * 30}\n" for i in range(31))
    + 'r31 ::= "x"\nroot ::= r0',
    "a chain of rules": "".join(f"r{i} ::= r{i + 1}\n" for i in range(1500)) + "r1500 ::= [x]\nroot ::= r0 root | [y]",
}


@pytest.mark.parametrize("name", ODD)
def test_a_grammar_of_any_kind_is_written_soon(name: str) -> None:
    started = time.process_time()
    assert "start: " in as_lark(ODD[name])
    assert time.process_time() - started < 5, "of what takes a tenth of a second; it would take many"


def test_many_words_are_one_lexeme_where_nothing_recurs() -> None:
    words = " | ".join(f'"word{i}"' for i in range(2000))
    constraint = compiled("lark", lark_from_gbnf(f'root ::= w (", " w)*\nw ::= {words}'))
    text = b"word7, word1999"
    constraint.start([*(BYTES.tokens.index(bytes([byte])) for byte in text), BYTES.eos_ids[0]])


@pytest.mark.parametrize(
    "text", ["start: /a/", "?start: /a/", "start.2: /a/", "start[max_tokens=9]: /a/", "\n start : /a/"]
)
def test_larks_notation_is_left_as_it_is(text: str) -> None:
    assert as_lark(text) == text
    assert as_lark('start ::= "a"\nroot ::= start') != text
