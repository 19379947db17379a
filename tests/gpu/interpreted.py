"""The Triton attention on CPU tensors, interpreted, beside the torch one over an equal cache. Shapes are kept tiny."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.attention.base import StepTensors
from model.attention.torch import TorchAttention
from model.config import ModelConfig
from model.kernels.triton.launches import AttentionLaunch, AttentionLaunches, Card
from model.kv_cache import KVCache
from tests.small_config import small_config

pytest.importorskip("triton")
from model.attention.triton import TritonAttention

CPU = torch.device("cpu")
NUM_BLOCKS = 64
CARD = Card(num_processors=3, shared_memory=0)
TINY = AttentionLaunches(
    split=AttentionLaunch(16, 16, 4, 2, programs_per_processor=1), tile=AttentionLaunch(16, 16, 4, 2), split_size=32
)


def config(num_heads: int = 4, num_kv_heads: int = 2, head_dim: int = 16, window: int | None = None) -> ModelConfig:
    return small_config(num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim, sliding_window=window)


@dataclass
class Twins:
    """Both back ends over caches that hold the same context and are NaN wherever nothing was written."""

    config: ModelConfig
    num_computed: list[int]
    num_new: list[int]
    block_size: int = 16
    dtype: torch.dtype = torch.float32
    launches: AttentionLaunches = TINY
    stored: torch.dtype | None = None
    triton: TritonAttention = field(init=False)
    torch: TorchAttention = field(init=False)

    def __post_init__(self) -> None:
        c = self.config
        random = np.random.default_rng(1)
        # Slots are not rows, and a sequence's blocks lie anywhere.
        num_slots = len(self.num_new) + 2
        ends = np.array(self.num_computed) + self.num_new
        blocks_each = -(-int(ends.max()) // self.block_size)
        self.tables = random.permutation(num_slots * blocks_each).astype(np.int32).reshape(num_slots, blocks_each)
        self.slots = random.permutation(num_slots)[: len(self.num_new)]
        context = [self.flat(r, np.arange(n)) for r, n in enumerate(self.num_computed)]
        read = torch.from_numpy(np.concatenate(context))
        self.generator = torch.Generator().manual_seed(2)
        keys, values = self.random(len(read), c.num_kv_heads), self.random(len(read), c.num_kv_heads)
        num_blocks = num_slots * blocks_each
        caches = [KVCache(c, num_blocks, self.block_size, self.dtype, CPU, stored=self.stored) for _ in range(2)]
        for cache in caches:
            for layer in cache.layers:
                for part in layer:
                    part.fill_(torch.nan)
            cache.write(1, read, keys, values)
        self.torch = TorchAttention(c, caches[0])
        self.triton = TritonAttention(c, caches[1], CARD, self.launches)
        T = sum(self.num_new)
        self.qkv = self.random(T, c.num_heads + 2 * c.num_kv_heads)
        spans = [self.flat(r, self.num_computed[r] + np.arange(n)) for r, n in enumerate(self.num_new)]
        self.write_T = torch.from_numpy(np.concatenate(spans))

    def random(self, num_tokens: int, num_heads: int) -> Tensor:
        return torch.randn(num_tokens, num_heads, self.config.head_dim, generator=self.generator).to(self.dtype)

    def flat(self, row: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        blocks = self.tables[self.slots[row], positions // self.block_size].astype(np.int64)
        return blocks * self.block_size + positions % self.block_size

    def rows(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], NDArray[np.int32]]:
        """What both back ends' `plan` takes."""
        return self.slots, np.array(self.num_computed), np.array(self.num_new), self.tables

    def attend(self, backend: TritonAttention | TorchAttention) -> Tensor:
        """The step's o_THD."""
        step = StepTensors(self.write_T, self.write_T, self.write_T, backend.plan(*self.rows()))
        return backend.attend(1, *self.parts(slice(None)), step)

    def parts(self, tokens: slice) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of some of the step's tokens."""
        c = self.config
        q, k, v = self.qkv[tokens].split_with_sizes((c.num_heads, c.num_kv_heads, c.num_kv_heads), dim=1)
        return q, k, v

    def attend_in_chunks(self, row: int, chunk: int) -> Tensor:
        """One row by itself, `chunk` tokens a step: o_SHD."""
        first_token, end = sum(self.num_new[:row]), self.num_new[row]
        outputs = []
        for start in range(0, end, chunk):
            num_new = min(chunk, end - start)
            tokens = slice(first_token + start, first_token + start + num_new)
            column = np.array([self.num_computed[row] + start]), np.array([num_new])
            plan = self.triton.plan(self.slots[[row]], *column, self.tables)
            write_T = self.write_T[tokens]
            outputs.append(self.triton.attend(1, *self.parts(tokens), StepTensors(write_T, write_T, write_T, plan)))
        return torch.cat(outputs)
