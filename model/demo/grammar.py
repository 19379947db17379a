"""Expands the templates that the training text is written in.

`[a|b]` is a choice (they nest), `{x}` a slot, `{X}` the same slot with a capital letter. `a` before a vowel becomes
`an`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from random import Random

Blocks = list[list[str]]
"""What stands under one heading: blocks of lines."""

_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_SLOT = re.compile(r"\{(\w+)\}")
_ARTICLE = re.compile(r"\b([Aa]) (?=[aeiou])(?!uni|one\b|use)")


def expand(template: str, slots: Mapping[str, str], rng: Random) -> str:
    """The template with every choice drawn and every slot filled. Raises KeyError for a slot that has no value."""
    text = template
    while (match := _CHOICE.search(text)) is not None:
        text = text[: match.start()] + rng.choice(match[1].split("|")) + text[match.end() :]
    text = _SLOT.sub(lambda slot: _fill(slot[1], slots), text)
    return _ARTICLE.sub(r"\1n ", text)


def _fill(name: str, slots: Mapping[str, str]) -> str:
    if name in slots:
        return slots[name]
    value = slots[name[0].lower() + name[1:]]
    return value[0].upper() + value[1:]


def read_sections(path: Path) -> dict[str, Blocks]:
    """A text file's sections by heading. `# heading` begins a section, an empty line ends a block."""
    sections: dict[str, Blocks] = {}
    blocks: Blocks = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            blocks = sections.setdefault(line[2:], [])
            blocks.append([])
        elif not line:
            blocks.append([])
        else:
            blocks[-1].append(line)
    return {heading: [block for block in found if block] for heading, found in sections.items()}
