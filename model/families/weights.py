"""The words in which a family says where each tensor of a checkpoint goes."""

import math
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Weight:
    """One tensor of the checkpoint, and the rows of our parameter that it fills."""

    name: str
    shape: tuple[int, ...]
    parameter: str
    first_row: int = 0
    """Where its rows begin in the parameter: above zero for parts of a merged matrix."""

    @property
    def num_elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def linear(parameter: str, parts: dict[str, int], num_inputs: int, has_bias: bool) -> Iterator[Weight]:
    """The weights of one Linear of ours whose rows are those of `parts` (checkpoint module -> rows), in order."""
    first_row = 0
    for module, num_rows in parts.items():
        yield Weight(f"{module}.weight", (num_rows, num_inputs), f"{parameter}.weight", first_row)
        if has_bias:
            yield Weight(f"{module}.bias", (num_rows,), f"{parameter}.bias", first_row)
        first_row += num_rows
