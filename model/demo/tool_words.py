"""Draws the words that tools, their arguments and their results are made of."""

import json
import re
from pathlib import Path
from random import Random

from model.demo.grammar import read_sections
from model.demo.stories import Slots, Storyteller

LETTERS = "ABCDEFGHKLMNPRSTUVWXYZ"

SPLIT = ("verbs", "nouns", "towns")
"""Lists of which some words are kept from the training."""


class ToolWords:
    """Holds the lists of words. With `is_unseen` those of `SPLIT` are the ones that the model never read in a tool."""

    def __init__(self, folder: Path, storyteller: Storyteller, *, is_unseen: bool = False) -> None:
        sections = read_sections(folder / "tool_words.txt")
        self.lists = {name: blocks[0][0].split(", ") for name, blocks in sections.items()}
        self.storyteller = storyteller
        kept = {word for name in SPLIT for word in self.lists[f"unseen {name}"]}
        self.vocabulary = sorted(_words_of(folder) - kept)
        """Words of the other texts: each has another token at the start of a string than within a sentence."""
        if is_unseen:
            self.lists |= {name: self.lists[f"unseen {name}"] for name in SPLIT}

    def slots(self, rng: Random) -> Slots:
        """Values for every slot of `tools.txt`."""
        scene = self.storyteller.scene(rng)
        return scene | self._things(rng, scene) | self._lists(rng) | self._numbers(rng)

    def key(self, rng: Random) -> str:
        """A parameter's name."""
        return self._mostly("keys", rng)

    def copies(self, rng: Random) -> tuple[str, str]:
        """A few words, and the same twice again, as they were or each in quotes, perhaps in another order."""
        person = self.storyteller.scene(rng)["person"]
        drawn = [rng.choice((self._mostly("nouns", rng), self._name(rng, person))) for _ in range(rng.randint(3, 10))]
        again = ""
        for _ in range(2):
            quoted = rng.choice((' "{}"', ' "{}"', " {}"))
            order = rng.choice((drawn, drawn, rng.sample(drawn, len(drawn))))
            again += "".join(map(quoted.format, order)) + "\n"
        return "".join(f" {word}" for word in drawn) + "\n", again

    def _things(self, rng: Random, scene: Slots) -> Slots:
        noun, item, value = self._mostly("nouns", rng), self._item(rng), self._value(rng)
        said = " ".join(self._item(rng) for _ in range(rng.randint(1, 4)))
        return {
            "noun": noun,
            "noun_id": noun.replace(" ", "_"),
            "key": self.key(rng),
            "name": self._name(rng, scene["person"]),
            "item": item,
            "item_id": item.replace(" ", "_"),
            "said": rng.choice((scene["echo"].replace(",", ""), said)),
            "value": value,
            "value_json": value if value.isdecimal() else json.dumps(value),
            "coined": self._coined(rng),
        }

    def _lists(self, rng: Random) -> Slots:
        lists = self.lists
        is_real = rng.random() < 0.6
        town, town2 = rng.sample(lists["towns"], 2) if is_real else (self._coined(rng).title() for _ in range(2))
        money, money2 = rng.sample(lists["money"], 2)
        sky, sky2 = rng.sample(lists["weathers"], 2)
        return {
            "get": rng.choice(lists["verbs"]) if rng.random() < 0.8 else self._coined(rng),
            "send": rng.choice(lists["senders"]),
            "town": town,
            "town2": town2,
            "weather": sky,
            "weather2": sky2,
            "unit": rng.choice(lists["units"]),
            "money": money,
            "money2": money2,
            "language": rng.choice(lists["languages"]),
            "day": rng.choice(lists["days"]),
            "month": rng.choice(lists["months"]),
        }

    def _numbers(self, rng: Random) -> Slots:
        b, a = sorted(rng.randint(2, 10 ** rng.randint(1, 4)) for _ in range(2))
        numbers = {
            "big": a,
            "big2": b,
            "total": a + b,
            "rest": a - b,
            "product": a * b,
            "degrees": rng.randint(0, 39),
            "number": rng.randint(1, 10 ** rng.randint(1, 3)),
            "large": rng.randint(1, 10 ** rng.randint(3, 7)),
        }
        code = rng.choice(("", rng.choice(LETTERS))) + str(rng.randint(1, 99999))
        clock = f"{rng.randint(0, 23)}:{rng.randint(0, 59):02}"
        return {name: str(number) for name, number in numbers.items()} | {"clock": clock, "code": code}

    def _coined(self, rng: Random) -> str:
        """The head of one word with the tail of another: it can only be copied, from pieces of every kind."""
        head, tail = rng.choice(self.vocabulary), rng.choice(self.vocabulary)
        return head[: rng.randint(2, 5)] + tail[-rng.randint(2, 5) :]

    def _mostly(self, name: str, rng: Random) -> str:
        """A word of the list, of any text, or of none."""
        drawn = rng.random()
        if drawn < 0.4:
            return rng.choice(self.lists[name])
        return rng.choice(self.vocabulary) if drawn < 0.65 else self._coined(rng)

    def _item(self, rng: Random) -> str:
        drawn = rng.random()
        if drawn < 0.35:
            return rng.choice(self.storyteller.words[rng.choice(("thing", "treat", "flower", "animals"))])
        return rng.choice(self.vocabulary) if drawn < 0.6 else self._coined(rng)

    def _name(self, rng: Random, person: str) -> str:
        """Of someone or something: Mia, Paris, Grelo, Mia Grelo, Lantern, lantern."""
        coined = self._coined(rng).title()
        item = self._item(rng)
        choices = (person, rng.choice(self.lists["towns"]), coined, f"{person} {coined}", item.title(), item)
        return rng.choices(choices, (35, 20, 20, 5, 8, 12))[0]

    def _value(self, rng: Random) -> str:
        """What a tool found: a number, perhaps of something, a word, a name."""
        number, item = str(rng.randint(1, 10 ** rng.randint(1, 5))), self._item(rng)
        town = rng.choice(self.lists["towns"])
        choices = (number, f"{number} {item}", item, self._coined(rng), self._coined(rng).title(), town)
        return rng.choices(choices, (30, 15, 15, 15, 10, 15))[0]


def _words_of(folder: Path) -> set[str]:
    """The plain words of all texts but those about tools."""
    paths = [path for path in folder.glob("*.txt") if not path.stem.startswith("tool")]
    texts = [path.read_text(encoding="utf-8") for path in paths]
    return {word for text in texts for word in re.findall(r"(?<![\w{\\])[a-z]{3,}(?![\w}])", text)}
