"""The training text as an endless stream of documents, the same for the same seed.

All of it is the project's own: templates and word lists in `text/`, told by `stories`, `chats`, `tools` and `forms`.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from random import Random
from typing import NamedTuple

from model.demo.chats import Message, Talker
from model.demo.forms import Forms
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


class Segment(NamedTuple):
    """A piece of a document, and whether the model learns to write it or only to read it."""

    text: str
    is_learned: bool


Document = list[Segment]


Mixture = Mapping[str, float]
"""How often each kind of document comes."""


def documents(seed: int, mixture: Mixture, max_exchanges: int) -> Iterator[tuple[str, Document]]:
    """Documents without end, each with its kind. Chats have about `max_exchanges` exchanges at most."""
    rng = Random(seed)
    storyteller = Storyteller(TEXT)
    talker = Talker(TEXT, storyteller)
    words = ToolWords(TEXT, storyteller)
    toolsmith, forms = Toolsmith(TEXT, talker, words), Forms(TEXT, words)
    kinds, weights = [*mixture], [*mixture.values()]
    while True:
        kind = rng.choices(kinds, weights)[0]
        if kind == "story":
            yield kind, prose(storyteller.story(rng)["story"])
        elif kind == "chat":
            yield kind, chat(talker.conversation(rng, max_exchanges))
        elif kind == "tools":
            messages = toolsmith.conversation(rng, max_exchanges)
            yield kind, chat(messages, last_question(messages))
        elif kind == "errand":
            yield kind, chat(toolsmith.errands(rng))
        elif kind == "form":
            yield kind, chat(forms.conversation(rng))
        elif kind == "copy":
            yield kind, exercise(*words.copies(rng))
        elif kind == "note":
            yield kind, prose(talker.note(rng))
        elif kind == "names":
            yield kind, prose(talker.name_text(rng))
        elif kind == "wink":
            # Cut as a prompt would be: the whole line has a token of its own, which holds no last character to guess.
            opening, rest = WINK
            yield kind, [Segment(BEGIN, False), Segment(opening, True), Segment(rest + END_OF_TEXT, True)]
        else:
            raise ValueError(f"no text of the kind {kind!r}")


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
