import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.text.channels import ChannelPlan, Channels
from server.text.reasoning import TAGS, detect
from server.text.stop import StopMatcher
from server.text.tool_formats.registry import FORMATS
from tests.text.splitting import TOOLS, split

CALL = '<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>'


@pytest.mark.parametrize(
    ("text", "is_thinking", "reasoning", "content"),
    [
        ("<think>\nhm\n</think>\n\nYes.", False, "hm", "Yes."),
        ("\n<think>hm</think>Yes.\n", False, "hm", "Yes.\n"),
        ("hm\n</think>\n\nYes.", True, "hm", "Yes."),
        ("Yes, <think>x</think>.", False, "", "Yes, <think>x</think>."),
        ("<think>hm", False, "hm", ""),
        ("hm </thi", True, "hm </thi", ""),
        ("<think></think>Yes", False, "", "Yes"),
        ("<thin", False, "", "<thin"),
        (" x ", False, "", " x "),
        ("<think>a</think>b</think>c", False, "a", "b</think>c"),
    ],
)
def test_thoughts_are_told_from_the_answer(text, is_thinking, reasoning, content):
    for pieces in (text, list(text)):
        whole = split(pieces, tags="think", is_thinking=is_thinking)
        assert (whole.reasoning, whole.content) == (reasoning, content)


def test_a_call_within_thoughts_is_a_thought():
    whole = split(f"<think>{CALL}</think>{CALL}", "hermes", "think")
    assert whole.reasoning == CALL
    assert whole.called == [("f", {"a": 1})]
    assert whole.content == ""


@pytest.mark.parametrize(
    ("tool_format", "tags", "text"),
    [
        ("hermes", "think", CALL),
        ("hermes", "think", f"\n{CALL}"),
        ("hermes", "think", f"<think>hm</think>{CALL}"),
        ("mistral", "mistral", '[TOOL_CALLS]f[ARGS]{"a": 1}'),
        ("mistral_array", "mistral", '[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]'),
    ],
)
def test_a_call_is_found_whose_mark_begins_like_the_thoughts_that_were_left_out(tool_format, tags, text):
    for pieces in (text, list(text)):
        whole = split(pieces, tool_format, tags)
        assert (whole.called, whole.content) == ([("f", {"a": 1})], "")


def test_a_call_without_its_closing_mark_may_be_followed_by_another():
    text = CALL.removesuffix("</tool_call>") + CALL
    for pieces in (text, list(text)):
        assert split(pieces, "hermes").called == [("f", {"a": 1})] * 2


def test_without_channels_nothing_is_taken_out():
    text = f" <think> {CALL} </think> "
    assert split(list(text)).content == text


def test_a_limit_of_calls_ends_the_text():
    channels = Channels(ChannelPlan(None, FORMATS["hermes"], TOOLS, max_calls=1))
    events = channels.push(CALL + CALL + "more")
    assert len(events) >= 3
    assert channels.is_over
    assert channels.push("x") == channels.finish() == []
    assert split(CALL + CALL, "hermes", max_calls=1).called == [("f", {"a": 1})]


def test_only_an_end_with_a_whole_call_is_one_for_tool_calls():
    assert split(CALL, "hermes").finish_reason == "tool_calls"
    assert split(CALL + CALL[:45], "hermes").finish_reason == "stop"
    channels = Channels(ChannelPlan(None, FORMATS["hermes"], TOOLS))
    channels.push(CALL)
    assert channels.finish_reason("length") == "length"


def test_it_knows_while_the_model_is_thinking():
    channels = Channels(ChannelPlan(TAGS["think"]))
    states = []
    for piece in ("<think>", "hm", "</think>", "x"):
        channels.push(piece)
        states.append(channels.is_reasoning)
    assert states == [True, True, False, False]


@pytest.mark.parametrize(
    ("template", "name"),
    [("a</think>b", "think"), ("[THINK]", "mistral"), ("<seed:think>", "seed_oss"), ("plain", None)],
)
def test_the_tags_are_found_in_the_template(template, name):
    found = detect(template)
    assert (found and found.name) == name


def test_a_prompt_may_have_opened_the_tags():
    tags = TAGS["think"]
    assert tags.is_open_after("<|assistant|><think>\n")
    assert not tags.is_open_after("<|assistant|><think>\n\n</think>\n\n")


WORDS = st.sampled_from(["<think>", "</think>", "<tool_call>", "</tool_call>", CALL, "a", " ", "\n", "<", "</", "é"])
STOPS = st.lists(st.sampled_from(["</", "call", "a ", "é", '"a": 1', "\n\n", "think>"]), max_size=2)


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS, max_size=12), STOPS, st.lists(st.integers(0, 400), max_size=6), st.booleans())
def test_st02_stops_cuts_and_marks_give_the_same_in_any_pieces(words, stops, cuts, is_thinking):
    text = "".join(words)
    cuts = sorted(min(cut, len(text)) for cut in cuts)
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]

    def stopped(pieces):
        matcher = StopMatcher(stops)
        sent = []
        for piece in pieces:
            text, found = matcher.push(piece)
            sent.append(text)
            if found:
                return sent
        return [*sent, matcher.flush()]

    whole = split("".join(stopped([text])), "hermes", "think", is_thinking=is_thinking)
    assert split(stopped(pieces), "hermes", "think", is_thinking=is_thinking) == whole
