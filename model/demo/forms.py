"""Makes requests for JSON, each with its answer."""

import json
from pathlib import Path
from random import Random

from model.demo.chats import Message
from model.demo.grammar import expand, read_sections
from model.demo.tool_words import ToolWords


class Forms:
    """Holds the ways to ask for JSON: each block of `forms.txt` is a request and, after `> `, the answer."""

    def __init__(self, folder: Path, words: ToolWords) -> None:
        self.words = words
        self.blocks = read_sections(folder / "forms.txt")["form"]

    def conversation(self, rng: Random) -> list[Message]:
        """One request and its answer."""
        slots = self.words.slots(rng)
        while slots["noun_id"] in ("name", slots["key"]):  # an object has each key once
            slots = self.words.slots(rng)
        items = [slots["item"], slots["person"], slots["town"]]
        slots |= {
            # A choice has the same brackets as a list, so lists come as slots.
            "items_json": json.dumps(items),
            "colours_json": json.dumps(rng.sample(self.words.storyteller.words["colour"], rng.randint(1, 3))),
            "truth": rng.choice(("true", "false")),
        }
        question, answer = (expand(line, slots, rng) for line in rng.choice(self.blocks))
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer.removeprefix("> ")}]
