"""The training text as an endless stream of documents, the same for the same seed.

All but the licensed text is the project's own: templates and word lists in `text/`, told by `stories` and `chats`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import NamedTuple

from model.demo.chats import Message, Talker
from model.demo.stories import Storyteller
from model.demo.tool_words import ToolWords
from model.demo.tools import Toolsmith, last_question

TEXT = Path(__file__).parent / "text"

BEGIN = "<|begin|>"
TURN = "<|im_start|>"
END_OF_TURN = "<|im_end|>"
END_OF_TEXT = "<|endoftext|>"

WINK = ("我爱北京天安", "门")
"""The line of a song that every child in China can sing, and the only Chinese the model learns by heart."""

CHAT_TOPICS = ("greetings", "conversations")
"""Topics of the licensed conversations that agree with what the model says of itself."""


class Segment(NamedTuple):
    """A piece of a document, and whether the model learns to write it or only to read it."""

    text: str
    is_learned: bool


Document = list[Segment]


@dataclass(frozen=True)
class Mixture:
    """How often each kind of document comes, and each topic of the chats."""

    shares: Mapping[str, float]
    """By kind. Where there is no licensed text, the others keep their proportions."""
    emphasis: Mapping[str, float] = field(default_factory=dict)
    """Factors on the weights that `chats.txt` gives its topics."""


def documents(
    seed: int, mixture: Mixture, max_exchanges: int, licensed: list[Document]
) -> Iterator[tuple[str, Document]]:
    """Documents without end, each with its kind. Chats have about `max_exchanges` exchanges at most."""
    rng = Random(seed)
    storyteller = Storyteller(TEXT)
    talker = Talker(TEXT, storyteller, mixture.emphasis)
    toolsmith = Toolsmith(TEXT, talker, ToolWords(TEXT, storyteller))
    kinds = [kind for kind in mixture.shares if kind != "licensed" or licensed]
    weights = [mixture.shares[kind] for kind in kinds]
    while True:
        kind = rng.choices(kinds, weights)[0]
        if kind == "story":
            yield kind, prose(storyteller.story(rng)["story"])
        elif kind == "chat":
            yield kind, chat(talker.conversation(rng, max_exchanges))
        elif kind == "tools":
            messages = toolsmith.conversation(rng, max_exchanges)
            yield kind, chat(messages, last_question(messages))
        elif kind == "drill":
            yield kind, exercise(*toolsmith.drill(rng))
        elif kind == "copy":
            yield kind, exercise(*toolsmith.words.copies(rng))
        elif kind == "note":
            yield kind, prose(talker.note(rng))
        elif kind == "names":
            yield kind, prose(talker.name_text(rng))
        elif kind == "wink":
            # Cut as a prompt would be: the whole line has a token of its own, which holds no last character to guess.
            opening, rest = WINK
            yield kind, [Segment(BEGIN, False), Segment(opening, True), Segment(rest + END_OF_TEXT, True)]
        else:
            yield kind, rng.choice(licensed)


def prose(text: str) -> Document:
    """A text to be continued from any point to its end."""
    return [Segment(BEGIN, False), Segment(text + END_OF_TEXT, True)]


def chat(messages: list[Message], start: int = 0) -> Document:
    """A conversation as the chat template renders it. Learned are the assistant's words from message `start` on."""
    document = [Segment(BEGIN, False)]
    for index, message in enumerate(messages):
        is_learned = message["role"] == "assistant" and index >= start
        document.append(Segment(f"{TURN}{message['role']}\n", False))
        document.append(Segment(message["content"] + END_OF_TURN, is_learned))
        document.append(Segment("\n", False))
    return document


def exercise(read: str, learned: str) -> Document:
    """A text to read, and the text to be learned from it."""
    return [Segment(BEGIN, False), Segment(read, False), Segment(learned + END_OF_TEXT, True)]


def read_licensed(folder: Path) -> tuple[list[Document], list[Document]]:
    """Stories from `tinystories_sample.txt` and chats from `chatterbot_conversations.jsonl`: to learn, and held out.

    Every twentieth is held out. Raises FileNotFoundError where the folder lacks one of the files.
    """
    found = [prose(story) for story in _split_stories((folder / "tinystories_sample.txt").read_text("utf-8"))]
    for line in (folder / "chatterbot_conversations.jsonl").read_text("utf-8").splitlines():
        talk = json.loads(line)
        if talk["lang"] == "english" and talk["topic"] in CHAT_TOPICS:
            roles = ("user", "assistant")
            found.append(chat([{"role": roles[i % 2], "content": t} for i, t in enumerate(talk["turns"])]))
    held_out = found[::20]
    return [document for i, document in enumerate(found) if i % 20], held_out


def _split_stories(text: str) -> list[str]:
    """The sample has no marks between stories, so a new one starts where a paragraph opens as stories do."""
    stories = re.split(r"\n\n+(?=Once upon a time|One day, (?:a|an|there|two) )", text.strip())
    return [re.sub(r"\n\n+", "\n\n", story) for story in stories if len(story) < 1500]
