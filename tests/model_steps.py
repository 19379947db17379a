"""Runs a Transformer on rows of tokens without the runner: scattered block tables over a poisoned cache."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.attention.base import AttentionBackend, StepTensors
from model.attention.cpu import CpuAttention
from model.attention.torch import TorchAttention
from model.config import ModelConfig
from model.kernels.cpu.library import CpuKernels
from model.kv_cache import KVCache
from model.transformer import Transformer

MAX_SLOTS = 16


@dataclass(slots=True)
class Row:
    """The next tokens of the sequence in a slot."""

    slot: int
    token_ids: list[int]


@dataclass
class Stepper:
    """One model with a cache whose blocks are NaN until written, and which a slot gets in random order."""

    model: Transformer
    block_size: int = 16
    max_len: int = 512
    seed: int = 0
    kernels: CpuKernels | None = None
    """Those that the model was packed for; None for the torch reference."""
    cache_dtype: torch.dtype = torch.float32
    """Of the kernels' cache."""
    num_computed: list[int] = field(default_factory=lambda: [0] * MAX_SLOTS)

    def __post_init__(self) -> None:
        blocks_each = -(-self.max_len // self.block_size)
        num_blocks = MAX_SLOTS * blocks_each
        self.backend = self._backend(num_blocks)
        order = np.random.default_rng(self.seed).permutation(num_blocks).astype(np.int32)
        self.block_tables = order.reshape(MAX_SLOTS, blocks_each)

    def _backend(self, num_blocks: int) -> AttentionBackend[Any]:
        config: ModelConfig = self.model.config
        if self.kernels is not None:
            ours = CpuAttention(self.kernels, config, num_blocks, self.block_size, self.cache_dtype)
            _poison(ours.layers)
            return ours
        cache = KVCache(config, num_blocks, self.block_size, self.model.dtype, self.model.device)
        _poison(cache.layers)
        return TorchAttention(config, cache)

    @torch.inference_mode()
    def step(self, rows: list[Row]) -> list[Tensor]:
        """Computes the rows' tokens in one step. Returns logits_SV for each row."""
        logits = self.model.logits(self.model(self.tensors(rows), self.backend))
        return list(logits.split([len(row.token_ids) for row in rows]))

    def tensors(self, rows: list[Row]) -> StepTensors[Any]:
        """The rows' next step, which counts as computed from now on."""
        slots = np.array([row.slot for row in rows], dtype=np.int64)
        num_new = np.array([len(row.token_ids) for row in rows], dtype=np.int64)
        num_computed = np.array([self.num_computed[row.slot] for row in rows], dtype=np.int64)
        positions, write = [], []
        for row in rows:
            first = self.num_computed[row.slot]
            for position in range(first, first + len(row.token_ids)):
                positions.append(position)
                block = int(self.block_tables[row.slot, position // self.block_size])
                write.append(block * self.block_size + position % self.block_size)
            self.num_computed[row.slot] += len(row.token_ids)
        return StepTensors(
            token_ids_T=torch.tensor([token_id for row in rows for token_id in row.token_ids]),
            positions_T=torch.tensor(positions),
            write_T=torch.tensor(write),
            plan=self.backend.plan(slots, num_computed, num_new, self.block_tables),
        )

    def run(self, slot: int, token_ids: list[int], chunk: int = 10**9) -> Tensor:
        """Logits of a whole prompt, computed `chunk` tokens at a time."""
        parts = [
            self.step([Row(slot, token_ids[start : start + chunk])])[0] for start in range(0, len(token_ids), chunk)
        ]
        return torch.cat(parts)


def _poison(layers: list[tuple[Tensor, Tensor]]) -> None:
    for keys, values in layers:
        keys.fill_(torch.nan)
        values.fill_(torch.nan)
