"""Memory in large pages.

A step reads every weight once, and no translation of an address lives long enough to be used twice: with pages of 4 KiB
the processor looks up one for each 64 lines that it reads.
"""

import math
import mmap

import torch
from torch import Tensor

ALIGNMENT = 64
"""Bytes: a cache line."""
REGION = 32 << 20
"""Bytes asked for at a time, so that small pieces share their pages; what is not used is never touched."""


def large_pages(num_bytes: int) -> Tensor:
    """uint8, not touched yet, in large pages where the system has them. Raises OSError where there is no room."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, num_bytes, flags=flags)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.uint8)


class Pages:
    """Keeps tensors that stay until the process ends, one after the other."""

    def __init__(self) -> None:
        self._free = torch.empty(0, dtype=torch.uint8)

    def take(self, dtype: torch.dtype, *shape: int) -> Tensor:
        """A tensor there, not filled."""
        num_bytes = math.prod(shape) * dtype.itemsize
        room = -(-num_bytes // ALIGNMENT) * ALIGNMENT
        if room > len(self._free):
            self._free = large_pages(max(room, REGION))
        piece, self._free = self._free[:num_bytes], self._free[room:]
        return piece.view(dtype).view(shape)
