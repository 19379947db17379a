"""Tells short stories: a cast and a scene are drawn, then a plot is told beat by beat."""

from pathlib import Path
from random import Random

from model.demo.grammar import Blocks, expand, read_sections

Slots = dict[str, str]

SHE = ("she", "her", "her", "herself")
HE = ("he", "him", "his", "himself")
HERO_KEYS = ("hero", "kind", "he", "him", "his", "himself")
FRIEND_KEYS = ("friend", "fkind", "fhe", "fhim", "fhis", "fhimself")


class Storyteller:
    """Holds the words and plots. A plot is a list of beats, a beat a list of ways to tell it."""

    def __init__(self, folder: Path) -> None:
        self.words = {
            name: [word for line in blocks[0] for word in line.split(", ")]
            for name, blocks in read_sections(folder / "words.txt").items()
        }
        self.places = [line.split("; ") for line in read_sections(folder / "places.txt")["places"][0]]
        plots = read_sections(folder / "plots.txt")
        self.openings = plots.pop("opening")[0]
        self.endings = plots.pop("ending")[0]
        self.plots: list[Blocks] = list(plots.values())

    def story(self, rng: Random) -> Slots:
        """A new story as the slot `story`, beside the slots it was told with (`hero`, `kind`, `place` and so on)."""
        slots = self.scene(rng)
        paragraphs = [expand(rng.choice(self.openings), slots, rng)]
        paragraphs += [expand(line, slots, rng) for line in _told(rng.choice(self.plots), rng)]
        if rng.random() < 0.5:
            paragraphs[-1] += " " + expand(rng.choice(self.endings), slots, rng)
        text = _introduce("\n\n".join(paragraphs), slots)
        opening, rest = text.split("\n\n", 1)
        return {**slots, "story": text, "opening": opening, "rest": rest}

    def scene(self, rng: Random) -> Slots:
        """Cast, place and props of one story."""
        slots = {name: rng.choice(choices) for name, choices in self.words.items()}
        place, at, sight, spot = rng.choice(self.places)
        slots |= {"place": place, "at": at, "sight": sight, "spot": spot}
        is_animal = rng.random() < 0.5
        slots |= dict(zip(HERO_KEYS, self._character(rng, is_animal, taken=()), strict=True))
        taken = (slots["hero"], slots["kind"])
        slots |= dict(zip(FRIEND_KEYS, self._character(rng, is_animal, taken), strict=True))
        prefix = "animal_" if is_animal else ""
        slots |= {name[:-1]: slots[prefix + name] for name in ("elders", "homes", "grumps")}
        slots["elder"] = slots["elder"].replace("his", slots["his"])
        is_she = slots["elder"].endswith(("mother", "aunt", "goose", "hen"))
        slots |= dict(zip(("ehe", "ehim", "ehis"), SHE if is_she else HE, strict=False))
        slots["who"] = rng.choice(["a {fkind} named {friend}", "{intro}"])
        slots["intro"] = "{friend} the {fkind}" if is_animal else "{his} friend {friend}"
        slots["person"] = rng.choice(self.words["girls"] + self.words["boys"])
        for name in ("intro", "who", "echo"):
            slots[name] = expand(slots[name], slots, rng)
        return slots

    def _character(self, rng: Random, is_animal: bool, taken: tuple[str, ...]) -> tuple[str, ...]:
        """Name, kind and pronouns of someone; name and animal are none of those taken."""
        is_she = rng.random() < 0.5
        names = self.words["animal_names"] if is_animal else self.words["girls" if is_she else "boys"]
        kinds = self.words["animals"] if is_animal else ["girl" if is_she else "boy"]
        name = rng.choice([name for name in names if name not in taken])
        kind = rng.choice([kind for kind in kinds if not is_animal or kind not in taken])
        return name, kind, *(SHE if is_she else HE)


def _told(plot: Blocks, rng: Random) -> list[str]:
    """One way to tell each beat. The first mark drawn, such as `(a) `, sets the thread; later marks must contain it."""
    lines: list[str] = []
    thread = ""
    for beat in plot:
        marked = [line[1:].split(") ", 1) if line.startswith("(") else ["", line] for line in beat]
        marks, line = rng.choice([(marks, line) for marks, line in marked if not marks or thread in marks])
        thread = thread or marks
        lines.append(line)
    return lines


def _introduce(text: str, slots: Slots) -> str:
    """The story with the friend introduced where the name comes up first, unless it is said there who that is."""
    friend = slots["friend"]
    before, name, after = text.partition(friend)
    if not name or before.endswith((" friend ", " named ", "I am ", ", ")) or after.startswith(" the "):
        return text
    intro = slots["intro"]
    if before.endswith((". ", "\n")):
        intro = intro[0].upper() + intro[1:]
    return before + intro + after
