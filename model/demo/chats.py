"""Makes short conversations out of question-and-answer templates, tables of facts, sums and stories."""

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

from model.demo.arithmetic import TABLES as ARITHMETIC
from model.demo.grammar import expand, read_sections
from model.demo.stories import Slots, Storyteller

Message = dict[str, str]
"""`role` and `content`, as the chat API has them."""

GAP = "..."
"""The line of a template where other exchanges may come between: what was said before is asked for after it."""


class Talker:
    """Holds the templates and the tables that fill them.

    A heading of `chats.txt` reads `topic, weight` or `topic, weight, table`; each block below it is one way to talk.
    """

    def __init__(self, folder: Path, storyteller: Storyteller) -> None:
        self.storyteller = storyteller
        self.tables: dict[str, Callable[[Random], Slots]] = {**ARITHMETIC, "story": storyteller.story}
        for name, blocks in read_sections(folder / "facts.txt").items():
            rows = [line.split(" | ") for line in blocks[0]]
            self.tables[name] = _row_drawer([dict(zip(rows[0], row, strict=True)) for row in rows[1:]])
        self.topics: list[tuple[str, list[list[str]]]] = []
        self.weights: list[float] = []
        for heading, blocks in read_sections(folder / "chats.txt").items():
            _, weight, table = [*heading.split(", "), ""][:3]
            self.topics.append((table, blocks))
            self.weights.append(float(weight))
        self.notes = [
            (name, line) for name, blocks in read_sections(folder / "notes.txt").items() for line in blocks[0]
        ]
        self.names = read_sections(folder / "names.txt")["names"][0]
        self.systems = read_sections(folder / "systems.txt")["system"][0]

    def conversation(self, rng: Random, max_exchanges: int) -> list[Message]:
        """One talk of at most about `max_exchanges` exchanges, with a system message half of the time."""
        messages: list[Message] = []
        if rng.random() < 0.5:
            messages.append({"role": "system", "content": expand(rng.choice(self.systems), {}, rng)})
        lines = self._lines(rng, rng.randint(1, max_exchanges))
        for line in lines:
            is_answer = line.startswith("> ")
            role = "assistant" if is_answer else "user"
            content = line[2:] if is_answer else _as_typed(line, rng)
            messages.append({"role": role, "content": _with_breaks(content)})
        return messages

    def note(self, rng: Random) -> str:
        """A short text that is no talk: a letter, a recipe, a fact."""
        table, line = rng.choice(self.notes)
        return _with_breaks(expand(line, self._slots(table, rng), rng))

    def name_text(self, rng: Random) -> str:
        """A few sentences in which names and things come again."""
        return expand(rng.choice(self.names), self.storyteller.scene(rng), rng)

    def _slots(self, table: str, rng: Random) -> Slots:
        """A scene, and over it a row of the table where there is one of that name."""
        slots = self.storyteller.scene(rng)
        return slots | self.tables[table](rng) if table in self.tables else slots

    def _lines(self, rng: Random, num_exchanges: int) -> Iterator[str]:
        """Lines of a talk with nothing left to fill in; answers begin with `> `."""
        while num_exchanges > 0:
            table, blocks = rng.choices(self.topics, self.weights)[0]
            slots = self._slots(table, rng)
            block = rng.choice(blocks)
            num_exchanges -= len(block) // 2
            for line in block:
                if line == GAP:
                    yield from self._lines(rng, min(rng.randint(0, 3), num_exchanges))
                else:
                    yield expand(line, slots, rng)


def _row_drawer(rows: list[Slots]) -> Callable[[Random], Slots]:
    return lambda rng: rng.choice(rows)


def _with_breaks(line: str) -> str:
    return line.replace("\\n", "\n")


def _as_typed(line: str, rng: Random) -> str:
    """The line as a hurried person types it, now and then: small letters, no mark at the end."""
    if rng.random() < 0.12:
        line = line.lower()
    if rng.random() < 0.12:
        line = line.rstrip("?.!")
    return line
