"""Attention on a CPU with our own kernels: straight from a paged cache laid out for them, each token read once.

A query's result depends on its context alone, bitwise: see model/kernels/cpu/attention.cpp.
"""

from ctypes import addressof
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.attention.base import StepTensors
from model.config import ModelConfig
from model.errors import NotEnoughMemory
from model.kernels.cpu import operators
from model.kernels.cpu.library import CpuKernels
from model.kernels.cpu.pages import large_pages
from model.kernels.cpu.structs import FORMATS, HeadsArguments, RowsArguments

# T tokens in the step, H query heads, K kv heads, D head size

TILE = 16
"""Keys that lie side by side, so that a vector holds one dimension of several keys."""
MAX_HEAD_DIM = 256
MAX_GROUP = 32
"""Most query heads of one kv head."""


@dataclass(frozen=True, slots=True)
class CpuPlan:
    """The rows of one step, as the kernels read them."""

    rows: RowsArguments
    columns: tuple[NDArray[np.int64] | NDArray[np.int32], ...]
    """Keeps the memory that `rows` points to."""


class CpuAttention:
    """Holds the cache: float32 or bfloat16, keys `[tile, K, D, 16]` and values `[tile, K, 16, D]` for each layer."""

    can_record = False

    def __init__(
        self, kernels: CpuKernels, config: ModelConfig, num_blocks: int, block_size: int, dtype: torch.dtype
    ) -> None:
        """Raises NotEnoughMemory, naming the size, when there's no room for that many blocks."""
        self._kernels = kernels
        num_bytes = num_blocks * self.bytes_per_block(config, block_size, dtype)
        num_tiles = num_blocks * block_size // TILE
        try:
            self.cache = large_pages(num_bytes).view(dtype)
        except (OSError, OverflowError) as error:
            raise NotEnoughMemory(
                f"no room for a KV cache of {num_blocks} blocks ({num_bytes / 2**30:.1f} GiB)"
            ) from error
        sizes = [num_tiles * size for size in _tile_sizes(config)] * config.num_layers
        parts = iter(self.cache.split_with_sizes(sizes))
        self.layers = [(keys, next(parts)) for keys in parts]
        """For each layer the keys and values, flat."""
        self.heads = (HeadsArguments * config.num_layers)(
            *(
                HeadsArguments(
                    keys=keys.storage_offset() * dtype.itemsize,
                    values=values.storage_offset() * dtype.itemsize,
                    format=FORMATS[str(dtype).removeprefix("torch.")],
                    num_heads=config.num_heads,
                    num_kv_heads=config.num_kv_heads,
                    head_dim=config.head_dim,
                    block_size=block_size,
                    window=config.sliding_window or 0,
                )
                for keys, values in self.layers
            )
        )
        """Where each layer's cache is, as the kernels read it."""

    @staticmethod
    def supports(config: ModelConfig, device: torch.device) -> str | None:
        """See AttentionBackend."""
        if device.type != "cpu":
            return f"the CPU kernels run on the cpu, not on {device.type}"
        if config.head_dim > MAX_HEAD_DIM:
            return (
                f"the CPU kernels take heads of at most {MAX_HEAD_DIM} dimensions, the model's have {config.head_dim}"
            )
        if config.num_heads // config.num_kv_heads > MAX_GROUP:
            return f"the CPU kernels take at most {MAX_GROUP} query heads for a kv head"
        return None

    @staticmethod
    def supports_cache(block_size: int, dtype: torch.dtype) -> str | None:
        """None, or the reason why the cache can't have such blocks."""
        if block_size % TILE:
            return f"the CPU kernels need blocks of a multiple of {TILE} tokens, not {block_size}"
        if dtype not in (torch.float32, torch.bfloat16):
            return f"the CPU kernels compute in float32 and bfloat16, not {str(dtype).removeprefix('torch.')}"
        return None

    @staticmethod
    def bytes_per_block(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
        """Bytes of one block's keys and values over all layers; a head's values are padded to 16 dimensions."""
        return config.num_layers * block_size // TILE * sum(_tile_sizes(config)) * dtype.itemsize

    def plan(
        self,
        slots: NDArray[np.int64],
        num_computed: NDArray[np.int64],
        num_new: NDArray[np.int64],
        block_tables: NDArray[np.int32],
    ) -> CpuPlan:
        """See AttentionBackend. The block tables are read during the step, not copied."""
        columns = tuple(np.ascontiguousarray(column, dtype=np.int64) for column in (slots, num_computed, num_new))
        tables = np.ascontiguousarray(block_tables, dtype=np.int32)
        rows = RowsArguments(
            num_rows=len(slots),
            slots=columns[0].ctypes.data,
            num_computed=columns[1].ctypes.data,
            num_new=columns[2].ctypes.data,
            block_tables=tables.ctypes.data,
            table_stride=tables.shape[1],
            num_tokens=int(columns[2].sum()),
        )
        return CpuPlan(rows, (*columns, tables))

    def attend(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, step: StepTensors[CpuPlan]) -> Tensor:
        """See AttentionBackend."""
        q, k, v = (x.float().contiguous() for x in (q_THD, k_TKD, v_TKD))
        arguments = self._kernels.address, addressof(self.heads[layer]), addressof(step.plan.rows)
        o_THD: Tensor = operators.attend(q, k, v, step.write_T, self.cache, *arguments)
        return o_THD.to(q_THD.dtype)


def _tile_sizes(config: ModelConfig) -> tuple[int, int]:
    """Numbers in one layer's tile of 16 keys, and in one of values."""
    padded = -(-config.head_dim // TILE) * TILE
    return config.num_kv_heads * config.head_dim * TILE, config.num_kv_heads * padded * TILE
