"""Typed reading of a JSON file that a stranger wrote: each value is checked for type and range by name."""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import BadConfig

MAX_FILE_BYTES = 16 * 2**20
"""Real config files have a few kB."""


@dataclass(frozen=True, slots=True)
class Fields:
    """An object of a JSON file. A field that is absent or null reads as its default; without default it is an error."""

    values: dict[str, Any]
    where: str
    """The file, and inside it the object, for messages."""

    @staticmethod
    def of_file(path: Path) -> "Fields":
        """The top object of the file. Raises BadConfig if there's no such file or it isn't a JSON object."""
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise BadConfig(f"{path}: larger than {MAX_FILE_BYTES} bytes, so not a config file")
            values = json.loads(path.read_bytes())
        except OSError as error:
            raise BadConfig(f"{path}: {error.strerror or error}") from error
        except (ValueError, RecursionError) as error:
            raise BadConfig(f"{path}: not JSON: {error}") from error
        if not isinstance(values, dict):
            raise BadConfig(f"{path}: expected a JSON object, found {_shown(values)}")
        return Fields(values, str(path))

    def has(self, name: str) -> bool:
        """Whether the field is there and not null."""
        return self.values.get(name) is not None

    def integer(self, name: str, low: int, high: int, default: int | None = None) -> int:
        """An integer from low to high."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self._error(name, f"an integer from {low} to {high}")
        return value

    def number(self, name: str, low: float, high: float, default: float | None = None) -> float:
        """A finite number from low to high; integers count."""
        value = self._value(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._error(name, "a number")
        if not (low <= value <= high and math.isfinite(value)):
            raise self._error(name, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, name: str, default: bool) -> bool:
        """true or false."""
        value = self._value(name, default)
        if not isinstance(value, bool):
            raise self._error(name, "true or false")
        return value

    def text(self, name: str, default: str | None = None) -> str:
        """A string."""
        value = self._value(name, default)
        if not isinstance(value, str):
            raise self._error(name, "a string")
        return value

    def section(self, name: str) -> "Fields":
        """The object under this name; empty where absent."""
        value = self._value(name, {})
        if not isinstance(value, dict):
            raise self._error(name, "an object")
        return Fields(value, f"{self.where}: {name}")

    def token_ids(self, name: str, vocab_size: int) -> tuple[int, ...]:
        """One token id or a list of them, as configs write end-of-sequence tokens. Empty where absent."""
        value = self._value(name, [])
        ids = value if isinstance(value, list) else [value]
        if not all(type(token_id) is int and 0 <= token_id < vocab_size for token_id in ids):
            raise self._error(name, f"token ids below vocab_size {vocab_size}")
        return tuple(ids)

    def _value(self, name: str, default: Any) -> Any:
        value = self.values.get(name)
        if value is None:
            value = default
        if value is None:
            raise BadConfig(f"{self.where}: {name} is missing")
        return value

    def _error(self, name: str, expected: str) -> BadConfig:
        return BadConfig(f"{self.where}: {name} is {_shown(self.values.get(name))}, expected {expected}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
