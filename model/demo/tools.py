"""Makes conversations in which the assistant calls tools: a question, the call, its result, the answer."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from model.demo.chats import Message, Talker
from model.demo.grammar import expand, read_sections
from model.demo.tool_words import ToolWords

REFUSAL = "I am sorry, I have no tool for that."
FAILURES = ('{"error": "not found"}', '{"error": "unknown"}', '{"error": "failed"}', "not found", "error", "no result")
APOLOGY = "I am sorry, I could not find that out."


@dataclass(frozen=True)
class Tool:
    """A tool as the model is told of it."""

    name: str
    parameters: tuple[str, ...]
    """Names, with `?` after one that may be left out."""

    def __str__(self) -> str:
        """The line that tells of it: first its name's words, which are then the same tokens as in the question."""
        parameters = ",".join(f'"{name.removesuffix("?")}"{"?" * name.endswith("?")}' for name in self.parameters)
        return f"- {self.name.replace('_', ' ')} {self.name} {{{parameters}}}"


@dataclass(frozen=True)
class Errand:
    """A question for which a tool is needed, and how it goes on."""

    question: str
    tool: Tool
    arguments: Mapping[str, str | int]
    result: str
    answer: str

    @property
    def call(self) -> str:
        """What the assistant writes first: the tool's line from the word on that the question has, then arguments."""
        words = self.tool.name.split("_")
        told = max((w for w in words if w in re.findall(r"\w+", self.question)), key=len, default=words[-1])
        hint = " ".join(words[words.index(told) :])
        return f"<call> {hint} {self.tool.name} {json.dumps(self.arguments, ensure_ascii=False)}</call>"


class Toolsmith:
    """Holds the ways to ask for what only a tool can tell.

    A heading of `tools.txt` reads `topic, weight`. Each block below it is one way to ask: the call, as
    `name(parameter=value, ...)`, the question, after `= ` the result and after `> ` the answer.
    """

    def __init__(self, folder: Path, talker: Talker, words: ToolWords) -> None:
        self.talker = talker
        self.words = words
        sections = read_sections(folder / "tools.txt")
        self.topics = list(sections.values())
        self.weights = [float(heading.split(", ")[1]) for heading in sections]

    def conversation(self, rng: Random, max_exchanges: int) -> list[Message]:
        """A talk of about `max_exchanges` exchanges at most, with tools at hand for what is asked last."""
        messages = self.talker.conversation(rng, 2) if rng.random() < 0.5 else []
        if not messages and rng.random() < 0.5:
            messages.append({"role": "system", "content": "You are a helpful assistant."})
        is_idle = len(messages) > 1 and rng.random() < 0.55
        num_errands = rng.randint(0, max_exchanges // 8) + (not is_idle)
        tools = [self.errand(rng).tool for _ in range(rng.choice((0, 0, 1, 1, 2, 2, 3)) + is_idle)]
        starts = [i for i, message in enumerate(messages) if message["role"] == "user"]
        for number in range(num_errands):
            errand = self.errand(rng)
            tools = [tool for tool in tools if tool.name != errand.tool.name] + [errand.tool]
            place = rng.choice(starts) if is_idle or (number < num_errands - 1 and starts) else len(messages)
            messages[place:place] = _turns(errand, rng)
        # A number can be reckoned with, so there is something to say without a tool.
        if not is_idle and len(tools) > 1 and rng.random() < 0.08 and not any(map(str.isdigit, errand.question)):
            tools.remove(errand.tool)
            messages[-3:] = [{"role": "assistant", "content": REFUSAL}]
        question = messages[last_question(messages)]
        question["content"] = with_tools(question["content"], rng.sample(tools, len(tools)))
        return messages

    def errands(self, rng: Random) -> list[Message]:
        """A question with tools at hand, the call, and mostly what follows: talk with nothing but tools."""
        errand, *others = (self.errand(rng) for _ in range(rng.choice((1, 2, 2, 3, 3, 4))))
        tools = {found.tool.name: found.tool for found in (*others, errand)}
        question, *rest = _turns(errand, rng)
        question["content"] = with_tools(errand.question, rng.sample([*tools.values()], len(tools)))
        return [question, *rest]

    def errand(self, rng: Random) -> Errand:
        """A question with all that follows it."""
        (blocks,) = rng.choices(self.topics, self.weights)
        slots = self.words.slots(rng)
        call, question, result, answer = (expand(line, slots, rng) for line in rng.choice(blocks))
        name, arguments = _read_call(call)
        parameters = [key + "?" * (rng.random() < 0.08) for key in arguments]
        extra = self.words.key(rng)
        if rng.random() < 0.15 and extra not in arguments:
            parameters.insert(rng.choice((0, len(parameters))), extra + "?")
        question = question.rstrip("?.") if rng.random() < 0.1 else question
        return Errand(question, Tool(name, tuple(parameters)), arguments, result[2:], answer[2:])


def with_tools(question: str, tools: Sequence[Tool]) -> str:
    """The question with the tools after it, as the chat template writes both.

    After it, since a token sees what came before: so each tool can be compared with the question where it is read.
    """
    return "\n".join((question, "", "Tools:", *map(str, tools)))


def last_question(messages: Sequence[Message]) -> int:
    """The index of the last message of the user."""
    return max(i for i, message in enumerate(messages) if message["role"] == "user")


def _turns(errand: Errand, rng: Random) -> Iterator[Message]:
    """All turns of an errand. Now and then the tool finds nothing."""
    is_failure = rng.random() < 0.04
    yield {"role": "user", "content": errand.question}
    yield {"role": "assistant", "content": errand.call}
    yield {"role": "tool", "content": rng.choice(FAILURES) if is_failure else errand.result}
    yield {"role": "assistant", "content": APOLOGY if is_failure else errand.answer}


def _read_call(call: str) -> tuple[str, dict[str, str | int]]:
    name, arguments = call.removesuffix(")").split("(")
    pairs = (pair.split("=") for pair in arguments.split(", ") if pair)
    return name, {key: int(value) if value.isdecimal() else value for key, value in pairs}
