"""The input of a custom tool's call is what the JSON string in it says, in whatever pieces that comes."""

import json
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.text.custom_calls import CustomCalls
from server.text.events import CallArguments, CallEnd, CallInput, CallStart, Content, Event


def translate(pieces: Iterable[str], is_complete: bool = True, names: tuple[str, ...] = ("c",)) -> list[Event]:
    calls = CustomCalls(frozenset(names))
    events = [CallStart("c"), *map(CallArguments, pieces), CallEnd(is_complete)]
    return [told for event in events for told in calls.translate(event)]


def input_of(events: list[Event]) -> str:
    begin, *inputs, end = events
    assert begin == CallStart("c", is_custom=True)
    assert isinstance(end, CallEnd)
    assert all(isinstance(event, CallInput) for event in inputs)
    return "".join(event.text for event in inputs)


@given(st.text(st.characters(codec="utf-8")), st.booleans(), st.sampled_from([None, 1]), st.data())
def test_any_text_comes_back_in_any_pieces(text: str, is_ascii: bool, indent: int | None, data: st.DataObject) -> None:
    written = json.dumps({"input": text}, ensure_ascii=is_ascii, indent=indent)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(written)), max_size=5)))
    pieces = [written[a:b] for a, b in zip([0, *cuts], [*cuts, len(written)], strict=True)]
    assert input_of(translate(pieces)) == text


def test_the_input_streams_before_it_is_whole() -> None:
    calls = CustomCalls(frozenset("c"))
    calls.translate(CallStart("c"))
    assert calls.translate(CallArguments('{"input": "ab\\')) == [CallInput("ab")]
    assert calls.translate(CallArguments("ncd")) == [CallInput("\n"), CallInput("cd")]


@pytest.mark.parametrize("written", ['{"code": "x", "input": "y"}', '{"input": 3}', "{}", '["input"]', ""])
def test_other_arguments_are_the_input_as_they_are(written: str) -> None:
    assert input_of(translate([written])) == input_of(translate(list(written))) == written


@pytest.mark.parametrize(
    ("written", "text"),
    [
        ('{"input": "ab', "ab"),
        ('{"input": "ab\\', "ab"),
        ('{"inp', '{"inp'),
        ('{"input": "\\ud83d\\u0061"}', "\ufffda"),
    ],
)
def test_what_is_cut_short_or_no_text_keeps_what_can_be_told(written: str, text: str) -> None:
    assert input_of(translate(list(written), is_complete=False)) == text


def test_calls_of_other_tools_and_texts_pass_as_they_are() -> None:
    pieces = ['{"input": "x"}']
    assert translate(pieces, names=()) == [CallStart("c"), CallArguments(pieces[0]), CallEnd(True)]
    assert CustomCalls(frozenset("c")).translate(Content("x")) == [Content("x")]


def test_a_second_call_begins_anew() -> None:
    calls = CustomCalls(frozenset({"c"}))
    events = [CallStart("c"), CallArguments('{"input": "a"}'), CallEnd(True)] * 2
    told = [one for event in events for one in calls.translate(event)]
    assert [one for one in told if isinstance(one, CallInput)] == [CallInput("a")] * 2
