"""Decode steps recorded once and played back: one call of the driver where a step has hundreds.

At a few rows a GPU computes a layer faster than the host can enqueue it, so without this the host sets the pace. A
recording works on the memory that it was made with. So there is one for each of a few numbers of rows, with tensors of
its own for what a step brings; a step of fewer rows is filled up with rows of padding.
"""

import bisect
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from model.attention.base import StepTensors
from model.stream import Stream

MAX_ROWS = 256
"""With more rows a GPU takes longer for a layer than the host."""


def ladder(max_rows: int) -> list[int]:
    """Numbers of rows to record, ascending: 1, 2, 4, 8, then every eighth, so that padding costs little."""
    top = min(max_rows, MAX_ROWS)
    sizes = [size for size in (1, 2, 4, *range(8, top, 8)) if size < top]
    return [*sizes, top]


class _Recording:
    """One number of rows: where a step's tensors go, and where its result lies until the next one is played."""

    def __init__(self, stream: Stream, step: StepTensors[Any], compute: Callable[[StepTensors[Any]], Tensor]) -> None:
        self.step = step
        self.hidden_TE: Tensor
        self._compute = compute
        self.play = stream.record(self._run)

    def _run(self) -> None:
        self.hidden_TE = self._compute(self.step)


class DecodeGraphs:
    """The recordings by number of rows."""

    def __init__(self) -> None:
        self._sizes: list[int] = []
        self._recordings: dict[int, _Recording] = {}

    @property
    def max_rows(self) -> int:
        """The largest number of rows recorded; 0 for none."""
        return max(self._recordings, default=0)

    def record(
        self,
        stream: Stream,
        make_step: Callable[[int], StepTensors[Any]],
        compute: Callable[[StepTensors[Any]], Tensor],
        *,
        sizes: list[int],
        max_bytes: int,
        progress: Callable[[float], None],
    ) -> None:
        """Record a step for each of `sizes`, from the largest down, until they have taken `max_bytes`.

        `make_step(n)` gives a step of n rows with the longest context, whose tensors become the recording's own;
        `compute` gives its hidden states. Smaller recordings use the memory of the largest again, and what is left
        unrecorded is filled up to the next larger one, so an early end costs speed alone.
        """
        free_before = stream.free_bytes()
        for number, size in enumerate(sorted(sizes, reverse=True)):
            progress(number / len(sizes))
            self._recordings[size] = _Recording(stream, make_step(size), compute)
            if free_before - stream.free_bytes() > max_bytes:
                break
        self._sizes = sorted(self._recordings)

    def num_rows_for(self, num_rows: int) -> int | None:
        """The number of rows to fill a decode step of `num_rows` up to; None where it can't be played."""
        place = bisect.bisect_left(self._sizes, num_rows)
        return self._sizes[place] if place < len(self._sizes) else None

    def play(self, step: StepTensors[Any]) -> Tensor:
        """The hidden states of a step of one of the recorded numbers of rows; they hold until the next call."""
        recording = self._recordings[len(step.token_ids_T)]
        copy_into(recording.step, step)
        recording.play()
        return recording.hidden_TE


def copy_into(target: Any, source: Any) -> None:
    """Copy the tensors in `source`, a dataclass of tensors, numbers and such dataclasses, to those of `target`.

    A tensor may be smaller than its target, whose beginning in every dimension it fills then.
    """
    pairs = list(_pairs(target, source))
    # All in one call, which on a GPU is one kernel for each dtype.
    torch._foreach_copy_([ours for ours, _ in pairs], [theirs for _, theirs in pairs])


def _pairs(target: Any, source: Any) -> Iterator[tuple[Tensor, Tensor]]:
    for field in dataclasses.fields(target):
        ours, theirs = getattr(target, field.name), getattr(source, field.name)
        if isinstance(ours, Tensor):
            for dimension, size in enumerate(theirs.shape):
                ours = ours.narrow(dimension, 0, size)
            yield ours, theirs
        elif dataclasses.is_dataclass(ours):
            yield from _pairs(ours, theirs)
