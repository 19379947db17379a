"""Grammars of strangers are compiled where they can do no harm."""

import asyncio
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from model.grammar import Grammar, Verdict
from server.errors import QueueFull
from server.grammar.checker import MAX_REMEMBERED, MAX_WAITING, NUM_BUSY, TOO_LARGE, TOO_LONG, GrammarChecker
from tests.constraint.walks import BYTES

# More than the stack of any thread holds, and no work to speak of.
ENDLESS = Grammar(
    "json_schema",
    json.dumps(
        {
            "$defs": {
                f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{(i + 1) % 5000}"}, {"$ref": f"#/$defs/d{i * 7 % 5000}"}]}
                for i in range(5000)
            },
            "$ref": "#/$defs/d0",
        }
    ),
)
SLOW = Grammar("json_schema", '{"type": "integer", "multipleOf": 99999989, "minimum": 0, "maximum": 1000000000000}')
GOOD = Grammar("regex", "a+")


@pytest.fixture(scope="module")
def checker() -> Iterator[GrammarChecker]:
    checker = GrammarChecker(lambda: BYTES)
    yield checker
    checker.close()


def check(checker: GrammarChecker, *grammars: Grammar) -> list[Verdict]:
    async def all_at_once() -> list[Verdict]:
        return await asyncio.gather(*(checker.check(grammar) for grammar in grammars))

    return asyncio.run(all_at_once())


def test_a_grammar_that_compiles_has_no_error(checker: GrammarChecker) -> None:
    assert check(checker, GOOD) == [Verdict()]


def test_a_verdict_says_what_is_wrong_and_what_is_left_out(checker: GrammarChecker) -> None:
    lenient = Grammar("json_schema", '{"type": "array", "uniqueItems": true}', True)
    wrong, left_out = check(checker, Grammar("regex", "a("), lenient)
    assert "character 2" in wrong.error
    assert "uniqueItems" in left_out.warnings[0]


def test_gr06_gr08_a_compiler_that_dies_or_never_ends_is_a_verdict_and_the_next_grammar_compiles(
    checker: GrammarChecker,
) -> None:
    assert check(checker, ENDLESS, SLOW) == [TOO_LARGE, TOO_LONG]
    assert check(checker, Grammar("regex", "b+"), Grammar("regex", "c(")) != [TOO_LARGE, TOO_LONG]
    assert check(checker, Grammar("regex", "d+")) == [Verdict()]


def test_a_verdict_is_remembered_without_compiling_again(checker: GrammarChecker) -> None:
    before = check(checker, SLOW, GOOD, ENDLESS)
    num_children = len(psutil.Process().children())
    assert check(checker, SLOW, GOOD, ENDLESS) == before
    assert len(psutil.Process().children()) == num_children


def test_gr03_what_is_remembered_is_bounded(checker: GrammarChecker) -> None:
    for i in range(MAX_REMEMBERED + 10):
        checker.remember(Grammar("regex", str(i)), Verdict())
    assert checker.num_remembered == MAX_REMEMBERED


def test_more_grammars_than_may_wait_are_refused() -> None:
    checker = GrammarChecker(lambda: BYTES)
    grammars = [Grammar("regex", f"a{{{i}}}") for i in range(1, MAX_WAITING + 2)]
    with pytest.raises(QueueFull):
        check(checker, *grammars)
    checker.close()


def test_one_child_more_than_can_be_busy_stands_ready() -> None:
    checker, before = GrammarChecker(lambda: BYTES), set(psutil.Process().children())
    assert check(checker, ENDLESS, GOOD) == [TOO_LARGE, Verdict()]
    deadline = time.monotonic() + 60
    while len(set(psutil.Process().children()) - before) != NUM_BUSY + 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    checker.close()


def test_children_end_with_their_checker() -> None:
    checker = GrammarChecker(lambda: BYTES)
    before = set(psutil.Process().children())
    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(check, checker, GOOD).result() == [Verdict()]
    children = set(psutil.Process().children()) - before
    assert children
    checker.close()
    assert not any(child.is_running() for child in children)


def test_a_parent_that_takes_much_memory_has_children_that_live() -> None:
    ballast = bytearray(700 * 2**20)
    ballast[::4096] = b"x" * len(ballast[::4096])
    checker = GrammarChecker(lambda: BYTES)
    for number in range(4):
        assert check(checker, Grammar("regex", f"a{number}+")) == [Verdict()]
    checker.close()
    del ballast
