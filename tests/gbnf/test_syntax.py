"""GBNF is read as llama.cpp reads it, and what can't be read is refused with its place."""

import pytest

from model.gbnf.syntax import Char, Choice, GbnfError, Ref, Repeat, Sequence, parse


def char(text: str) -> Char:
    return Char(((ord(text[0]), ord(text[-1])),))


A, B = char("a"), char("b")

READ = {
    'root ::= "ab"': Sequence((A, B)),
    'root ::= "a" "b" ': Sequence((A, B)),
    'root ::= "a" | "b"': Choice((A, B)),
    'root ::= "a" |\n  # or\n  "b"': Choice((A, B)),
    'root ::= "a" # one\n  | "b" # two\n': Choice((A, B)),
    'root ::=\n\n  "a"': A,
    'root ::= (\n"a"\n"b" # and\n)': Sequence((A, B)),
    "root ::= | [a]": Choice((Sequence(()), A)),
    'root ::= ""': Sequence(()),
    "root ::= [a-c]": char("ac"),
    "root ::= [cab-b]": char("ac"),
    r"root ::= [\x61-\u0063]": char("ac"),
    r'root ::= "\U0001F600"': char("😀"),
    r"root ::= [\]\-\^]": Char(((0x2D, 0x2D), (0x5D, 0x5E))),
    "root ::= [a-]": Char(((0x2D, 0x2D), (0x61, 0x61))),
    r'root ::= "\n\r\t\\\"\["': Sequence(tuple(map(char, '\n\r\t\\"['))),
    "root ::= [^a]": Char(((0, 0x60), (0x62, 0xD7FF), (0xE000, 0x10FFFF))),
    "root ::= .": Char(((0, 0xD7FF), (0xE000, 0x10FFFF))),
    "root ::= [a]*": Repeat(A, 0, None),
    "root ::= [a]+": Repeat(A, 1, None),
    "root ::= [a]?": Repeat(A, 0, 1),
    "root ::= [a]{3}": Repeat(A, 3, 3),
    "root ::= [a]{3,}": Repeat(A, 3, None),
    "root ::= [a]{3,5}": Repeat(A, 3, 5),
    "root ::= [a]{,5}": Repeat(A, 0, 5),
    "root ::= [a]{0}": Sequence(()),
    "root ::= [a]? +": Repeat(Repeat(A, 0, 1), 1, None),
    "a-b_1 ::= [a]\r\nroot ::= a-b_1\r\n": Ref("a-b_1"),
}


@pytest.mark.parametrize("text", READ)
def test_a_rule_is_read(text: str) -> None:
    assert parse(text)["root"] == READ[text]


FAULTS = {
    "root ::= (": ("line 1, column 11", "')'"),
    'root ::= "a"\nx ::= undefined_rule': ("line 2, column 7", "undefined_rule is not defined"),
    'root ::= "a"\nroot ::= "b"': ("line 2, column 1", "defined twice"),
    "a ::= b\nb ::= a": ("root",),
    "": ("root",),
    'root = "a"': ("line 1, column 5", "::="),
    'root ::= "a': ("line 1, column 10", 'expected "'),
    "root ::= [a": ("line 1, column 10", "expected ]"),
    r'root ::= "\q"': ("line 1, column 11", "unknown escape"),
    r'root ::= "\uD83D"': ("line 1, column 11", "no character"),
    "root ::= [c-a]": ("ends before it begins",),
    "root ::= []": ("allows no character",),
    "root ::= *": ("line 1, column 10", "expected a literal"),
    "root ::= [a]{2,1}": ("line 1, column 13", "counts go up"),
    "root ::= [a]{2 1}": ("line 1, column 13", "comma"),
    "root ::= [a]{x}": ("line 1, column 13", "{m,n}"),
    "root ::= [a]{1000000}": ("line 1, column 13", "100000 at most"),
    "root ::= " + "(" * 70 + "[a]" + ")" * 70: ("column 43", "nested more than 32 deep"),
    "root ::= [a]" + "?" * 600: ("line 1", "more than 3 repetitions"),
    "root ::= [a]{" + "9" * 5000 + "}": ("line 1, column 13", "{m,n}"),
    'root ::= "a"{\u0663}': ("line 1, column 13", "{m,n}"),
    'root ::= "\ud83d"': ("line 1, column 11", "no character"),
    "root ::= <[12]>": ("line 1, column 10", "Lark's notation alone"),
    'a: "a"': ("line 1, column 2", "called start"),
    "root ::= 'a'": ("line 1, column 10", "expected a literal"),
}


@pytest.mark.parametrize("text", FAULTS)
def test_a_fault_is_named_with_its_place(text: str) -> None:
    with pytest.raises(GbnfError) as refusal:
        parse(text)
    assert all(word in str(refusal.value) for word in FAULTS[text]), str(refusal.value)
