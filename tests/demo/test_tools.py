"""What the bundled model learns of tools is what a server writes and reads of them."""

import json
from pathlib import Path
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

import model.demo
from model.demo.chats import Talker
from model.demo.corpus import TEXT, chat
from model.demo.stories import Storyteller
from model.demo.tool_words import SPLIT, ToolWords
from model.demo.tools import APOLOGY, Tool, Toolsmith, last_question, with_tools
from server.text.channels import ChannelPlan, Channels
from server.text.events import CallArguments, CallStart, Content
from server.text.tool_formats.nexttoken import Nexttoken

few = settings(max_examples=25, deadline=None)
SEEDS = st.integers(min_value=0, max_value=2**32)
STORYTELLER = Storyteller(TEXT)
SEEN = ToolWords(TEXT, STORYTELLER)
TOOLSMITH = Toolsmith(TEXT, Talker(TEXT, STORYTELLER), SEEN)
TOKENIZER = AutoTokenizer.from_pretrained(Path(model.demo.__path__[0]) / "bundled")


def as_sent(tool: Tool) -> dict[str, Any]:
    """The tool as a client describes it."""
    names = [name.removesuffix("?") for name in tool.parameters]
    schema = {
        "type": "object",
        "properties": {name: {"type": ["string", "integer"]} for name in names},
        "required": [name for name in tool.parameters if not name.endswith("?")],
    }
    return {"type": "function", "function": {"name": tool.name, "description": "Helps.", "parameters": schema}}


def calls_in(text: str, tool: Tool) -> tuple[str, list[str], str]:
    """What a server reads in the text: content, names of calls, and all their arguments."""
    channels = Channels(ChannelPlan(None, Nexttoken(), frozenset({tool.name})))
    events = [*channels.push(text), *channels.finish()]
    content = "".join(event.text for event in events if isinstance(event, Content))
    arguments = "".join(event.text for event in events if isinstance(event, CallArguments))
    return content, [event.name for event in events if isinstance(event, CallStart)], arguments


def name_in(call: str) -> str:
    return call.split(" {")[0].split(" ")[-1]


@few
@given(SEEDS)
def test_template_renders_tools_and_calls_as_they_were_trained_on(seed: int) -> None:
    rng = Random(seed)
    errand, other = TOOLSMITH.errand(rng), TOOLSMITH.errand(rng)
    tools = [errand.tool, other.tool]
    call = {"name": errand.tool.name, "arguments": errand.arguments}
    before = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
    ]
    after = [
        {"role": "tool", "tool_call_id": "1", "content": errand.result},
        {"role": "assistant", "content": errand.answer},
    ]
    question = {"role": "user", "content": errand.question}
    called = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": call}]}
    sent = [*before, question, called, *after]
    rendered = TOKENIZER.apply_chat_template(sent, tools=[as_sent(tool) for tool in tools], tokenize=False)
    question["content"] = with_tools(errand.question, tools)
    # The template can't know the words that the model wrote first: most often the name's last is the one.
    written = json.dumps(errand.arguments, ensure_ascii=False)
    called["content"] = f"<call> {errand.tool.name.split('_')[-1]} {errand.tool.name} {written}</call>"
    assert rendered == "".join(segment.text for segment in chat(sent))


def test_template_writes_a_tool_without_parameters_and_several_calls() -> None:
    calls = [{"type": "function", "function": {"name": "news", "arguments": {}}}] * 2
    turns = [
        {"role": "user", "content": "What is new?"},
        {"role": "assistant", "content": "So:", "tool_calls": calls},
    ]
    tools = [{"type": "function", "function": {"name": "news"}}]
    rendered = TOKENIZER.apply_chat_template(turns, tools=tools, tokenize=False)
    call = "<call> news news {}</call>"
    tools_line = "- news news {}<|im_end|>\n"
    assert rendered.endswith(
        f"user\nWhat is new?\n\nTools:\n{tools_line}<|im_start|>assistant\nSo:\n{call}\n{call}<|im_end|>\n"
    )


@few
@given(SEEDS)
def test_server_reads_the_calls_that_are_learned(seed: int) -> None:
    errand = TOOLSMITH.errand(Random(seed))
    content, names, arguments = calls_in(errand.call, errand.tool)
    assert (content, names, json.loads(arguments)) == ("", [errand.tool.name], errand.arguments)
    assert errand.arguments.keys() <= {name.removesuffix("?") for name in errand.tool.parameters}


@few
@given(SEEDS)
def test_arguments_are_copied_from_the_question(seed: int) -> None:
    errand = TOOLSMITH.errand(Random(seed))
    assert all(str(value) in errand.question for value in errand.arguments.values())


@few
@given(SEEDS)
def test_what_an_exercise_asks_for_was_read_before(seed: int) -> None:
    words, again = SEEN.copies(Random(seed))
    assert set(words.split()) == set(again.replace('"', "").split())


@few
@given(SEEDS)
def test_an_errand_lists_the_tool_that_it_calls(seed: int) -> None:
    question, call, *_ = TOOLSMITH.errands(Random(seed))
    assert f" {name_in(call['content'])} {{" in question["content"]


@few
@given(SEEDS)
def test_a_call_that_is_learned_is_of_a_tool_that_the_question_lists(seed: int) -> None:
    messages = TOOLSMITH.conversation(Random(seed), max_exchanges=16)
    last = last_question(messages)
    called = [message["content"] for message in messages[last:] if message["content"].startswith("<call>")]
    for call in called:
        assert f" {name_in(call)} {{" in messages[last]["content"]
        assert [message["role"] for message in messages[last:]] == ["user", "assistant", "tool", "assistant"]
    learned = [segment for segment in chat(messages, last) if segment.is_learned]
    assert len(learned) == 1 + len(called)


def test_some_tools_find_nothing_and_some_are_missing() -> None:
    talks = [TOOLSMITH.conversation(Random(seed), 4) for seed in range(300)]
    contents = [message["content"] for talk in talks for message in talk]
    assert APOLOGY in contents
    assert any("have no tool" in content for content in contents)
    assert any(not any(message["role"] == "tool" for message in talk) for talk in talks)


def test_unseen_words_come_only_where_they_are_asked_for() -> None:
    unseen = ToolWords(TEXT, STORYTELLER, is_unseen=True)
    for name in SPLIT:
        assert not set(unseen.lists[name]) & set(SEEN.lists[name])
        assert not set(unseen.lists[name]) & set(SEEN.vocabulary)
