"""Attention on a GPU with our own Triton kernels: straight from the paged cache, each token read once for all heads.

`attend` and `attend_projected` may be recorded in a CUDA graph once they have run: they launch the same kernels on the
same memory whatever the rows' contexts, and read on the device how much there is to do. A recording of as many rows of
the longest context serves others when the tensors of their plan are copied to the beginnings of its own. `plan` is the
host's part. A query's result depends on its own context, and on how many tokens its row computes in the step, alone.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.attention.base import StepTensors
from model.attention.pieces import MAX_SPLITS, Tiling, cut
from model.config import ModelConfig
from model.kernels.triton.attention import attend, merge
from model.kernels.triton.launches import AttentionLaunch, AttentionLaunches, Card, padded, unsupported
from model.kernels.triton.rotary import rotate_and_write
from model.kv_cache import FP8, KVCache
from model.layers.rope import Rotation
from model.stream import to_device

# T tokens in the step, H query heads, K kv heads, D head size; W pieces, P partial results, B blocks

_HEADS_PER_PROGRAM = 16
"""Heads that one program turns: enough programs for one token, few enough for a long prompt."""


@dataclass(frozen=True, slots=True)
class TritonPlan:
    """One step's pieces on the device, int32, with columns as StepPieces has them."""

    counts_24: Tensor
    """Of `splits_W8` and `tiles_W8`: how many there are. A count has 16 bytes, for which the kernels are compiled."""
    merges_T4: Tensor
    splits_W8: Tensor
    """With room for more: for as many as the rows had at any time on their way to their present lengths."""
    tiles_W8: Tensor
    tables_B: Tensor
    max_partials: int
    """Of the pieces that `splits_W8` has room for."""


class TritonAttention:
    """Attention with the kernels of model/kernels/triton."""

    can_record = True

    def __init__(self, config: ModelConfig, cache: KVCache, card: Card, launches: AttentionLaunches) -> None:
        """The cache's dtype is the model's; it may store FP8."""
        self.cache = cache
        self._layers = [(_as_kernels_take(keys), _as_kernels_take(values)) for keys, values in cache.layers]
        self.num_heads = config.num_heads
        self.num_kv_heads = config.num_kv_heads
        self.head_dim = config.head_dim
        self.launches = launches
        self.device = cache.layers[0][0].device
        self._window = config.sliding_window or 0
        self._num_processors = card.num_processors
        group = config.num_heads // config.num_kv_heads
        self._tiling = Tiling(
            block_size=cache.block_size,
            window=config.sliding_window,
            split_tokens=launches.split.block_m // group,
            split_size=launches.split_size,
            tile_tokens=launches.tile.block_m // group,
        )

    @staticmethod
    def supports(config: ModelConfig, device: torch.device) -> str | None:
        """See AttentionBackend."""
        return unsupported(config, device)

    def plan(
        self,
        slots: NDArray[np.int64],
        num_computed: NDArray[np.int64],
        num_new: NDArray[np.int64],
        block_tables: NDArray[np.int32],
    ) -> TritonPlan:
        """See AttentionBackend."""
        pieces = cut(self._tiling, slots, num_computed, num_new, block_tables)
        counts_24 = np.zeros((2, 4), dtype=np.int32)
        counts_24[:, 0] = len(pieces.splits_W8), len(pieces.tiles_W8)
        parts = (counts_24, pieces.merges_T4, pieces.tiles_W8, pieces.splits_W8)
        sizes = (*(part.size for part in parts[:3]), 8 * pieces.max_splits)
        room = np.zeros(sizes[3] - pieces.splits_W8.size, dtype=np.int32)
        memory = to_device(np.concatenate([*(part.ravel() for part in parts), room]), self.device)
        counts, merges, tiles, splits = memory.split_with_sizes(sizes)
        return TritonPlan(
            counts_24=counts.view(2, 4),
            merges_T4=merges.view(-1, 4),
            splits_W8=splits.view(-1, 8),
            tiles_W8=tiles.view(-1, 8),
            tables_B=to_device(pieces.tables, self.device),
            max_partials=pieces.max_partials,
        )

    def attend(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, step: StepTensors[TritonPlan]) -> Tensor:
        """See AttentionBackend."""
        return self._attend(layer, torch.cat((q_THD, k_TKD, v_TKD), dim=1).flatten(1), None, step)

    def attend_projected(self, layer: int, qkv_TX: Tensor, rotation: Rotation, step: StepTensors[TritonPlan]) -> Tensor:
        """`attend` on the rows of the merged projection, [H + 2K heads of D], whose queries are turned in place."""
        return self._attend(layer, qkv_TX, rotation, step)

    def _attend(self, layer: int, qkv_TX: Tensor, rotation: Rotation | None, step: StepTensors[TritonPlan]) -> Tensor:
        self._rotate_and_write(layer, qkv_TX, rotation, step.write_T)
        plan, H, D = step.plan, self.num_heads, self.head_dim
        o_THD = qkv_TX.new_empty(len(qkv_TX), H, D)
        partial_PHD = qkv_TX.new_empty(plan.max_partials, H, D, dtype=torch.float32)
        lse_PH = qkv_TX.new_empty(plan.max_partials, H, dtype=torch.float32)
        num_splits_4, num_tiles_4 = plan.counts_24.unbind()
        for launch, pieces_W8, count_4 in (
            (self.launches.tile, plan.tiles_W8, num_tiles_4),
            (self.launches.split, plan.splits_W8, num_splits_4),
        ):
            if len(pieces_W8):
                self._launch(launch, layer, qkv_TX, plan.tables_B, pieces_W8, count_4, o_THD, partial_PHD, lse_PH)
        if len(plan.merges_T4):
            merge[(len(plan.merges_T4), H)](
                partial_PHD, lse_PH, plan.merges_T4, o_THD,
                H=H, D=D, BLOCK_D=padded(D), MAX_SPLITS=MAX_SPLITS, num_warps=4, enable_fp_fusion=False,
            )  # fmt: skip
        return o_THD

    def _rotate_and_write(self, layer: int, qkv_TX: Tensor, rotation: Rotation | None, write_T: Tensor) -> None:
        keys_NKD, values_NKD = self._layers[layer]
        H, K, D = self.num_heads, self.num_kv_heads, self.head_dim
        cosines, sines = (rotation.cos_T1D, rotation.sin_T1D) if rotation else (qkv_TX, qkv_TX)
        rotate_and_write[(len(qkv_TX), -(-(H + 2 * K) // _HEADS_PER_PROGRAM))](
            qkv_TX, cosines, sines, write_T, keys_NKD, values_NKD,
            H=H, K=K, D=D, BLOCK_X=_HEADS_PER_PROGRAM, BLOCK_P=padded(D // 2), ROTATES=rotation is not None,
            num_warps=4, enable_fp_fusion=False,
        )  # fmt: skip

    def _launch(
        self,
        launch: AttentionLaunch,
        layer: int,
        qkv_TX: Tensor,
        tables_B: Tensor,
        pieces_W8: Tensor,
        count_4: Tensor,
        o_THD: Tensor,
        partial_PHD: Tensor,
        lse_PH: Tensor,
    ) -> None:
        keys_NKD, values_NKD = self._layers[layer]
        D = self.head_dim
        num_programs = len(pieces_W8) * self.num_kv_heads
        if launch.programs_per_processor is not None:
            num_programs = min(num_programs, launch.programs_per_processor * self._num_processors)
        attend[(num_programs,)](
            qkv_TX, keys_NKD, values_NKD, tables_B, pieces_W8, count_4, o_THD, partial_PHD, lse_PH,
            SCALE=math.log2(math.e) / math.sqrt(D),
            H=self.num_heads, K=self.num_kv_heads, D=D, Q_STRIDE=qkv_TX.shape[1],
            BLOCK_SIZE=self.cache.block_size, WINDOW=self._window,
            BLOCK_M=launch.block_m, BLOCK_N=launch.block_n, BLOCK_D=padded(D), IS_SPLIT=launch is self.launches.split,
            num_warps=launch.num_warps, num_stages=launch.num_stages, enable_fp_fusion=False,
        )  # fmt: skip


def _as_kernels_take(cached_NKD: Tensor) -> Tensor:
    return cached_NKD.view(torch.uint8) if cached_NKD.dtype == FP8 else cached_NKD
