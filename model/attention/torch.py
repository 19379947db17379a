"""The reference back end: torch's scaled_dot_product_attention over gathered keys and values, on CPU and CUDA.

Rows with one new token (decode) are grouped by context length, one call a group; a row with more (prefill) has calls
of its own. Keys are gathered token by token: only positions that the row itself has written are read, whatever else
lies in its blocks, and padding repeats the row's last token under a weight of zero.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from model.attention.base import StepTensors
from model.config import ModelConfig
from model.kv_cache import KVCache
from model.stream import to_device

# T tokens in the step, R rows of a group, S new tokens of a prefill row, N keys,
# H query heads, K kv heads, G = H / K query heads that share a kv head, D head size

MAX_BIAS_ELEMENTS = 2**24
"""Most scores one prefill call may need a bias for: some kernels copy the bias to memory in full."""
MAX_GROUP_BYTES = {"cpu": 4 * 2**20, "cuda": 256 * 2**20}
"""Most keys and values a decode group gathers: on a CPU what its caches hold (4 MiB is up to twice as fast as 40), on
a GPU what is spared for it."""
MAX_PADDING = 1.25
"""A row's keys are padded to at most this many times their number, or to SHORT_CONTEXT."""
SHORT_CONTEXT = 128
"""Up to here the padding costs less than a call."""


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Rows of one new token each, over similarly long contexts."""

    tokens_R: Tensor
    """int64, their places among the step's tokens."""
    read: Tensor
    """int64 [R * N], flat cache positions, each row's oldest key first."""
    bias_R11N: Tensor | None
    """0 for a row's keys, -inf for padding; None where all rows have N keys."""


@dataclass(frozen=True, slots=True)
class PrefillTile:
    """Some of a prefill row's queries, and the run of gathered keys that they see."""

    first_query: int
    first_key: int
    bias_SN: Tensor


@dataclass(frozen=True, slots=True)
class PrefillRow:
    """Several new tokens of one sequence."""

    first_token: int
    num_tokens: int
    read: Tensor | None
    """int64 [N], flat cache positions, newest key first; None for the start of a sequence, which sees only itself."""
    tiles: tuple[PrefillTile, ...] = ()


@dataclass(frozen=True, slots=True)
class TorchPlan:
    """Who attends together in one step."""

    decode: list[DecodeGroup]
    prefill: list[PrefillRow]
    place_T: Tensor
    """int64, where each token of the step is found among the tokens of the groups and then of the prefill rows."""


class TorchAttention:
    """Attention with the kernels that torch has."""

    can_record = False

    def __init__(self, config: ModelConfig, cache: KVCache) -> None:
        self.cache = cache
        self.num_kv_heads = config.num_kv_heads
        self.window = config.sliding_window
        keys, _ = cache.layers[0]
        self.device = keys.device
        self.dtype = cache.dtype
        self.max_group_keys = MAX_GROUP_BYTES[self.device.type] // (2 * config.kv_size * self.dtype.itemsize)

    @staticmethod
    def supports(config: ModelConfig, device: torch.device) -> str | None:
        """See AttentionBackend."""
        if device.type in ("cpu", "cuda"):
            return None
        return f"the torch attention runs on cpu and cuda, not on {device.type}"

    def plan(
        self,
        slots: NDArray[np.int64],
        num_computed: NDArray[np.int64],
        num_new: NDArray[np.int64],
        block_tables: NDArray[np.int32],
    ) -> TorchPlan:
        """See AttentionBackend."""
        ends = num_computed + num_new
        tables = block_tables[:, : -(-int(ends.max()) // self.cache.block_size)]
        first_tokens = np.cumsum(num_new) - num_new
        groups = self._similar_rows(num_computed, num_new)
        prefill_rows = np.flatnonzero(num_new > 1)
        decode = [self._decode_group(first_tokens[g], num_computed[g], tables[slots[g]]) for g in groups]
        prefill = [
            self._prefill_row(int(first_tokens[r]), int(num_computed[r]), int(num_new[r]), tables[slots[r]])
            for r in prefill_rows
        ]
        order = [first_tokens[g] for g in groups]
        order += [np.arange(first_tokens[r], first_tokens[r] + num_new[r]) for r in prefill_rows]
        return TorchPlan(decode, prefill, self._on_device(np.argsort(np.concatenate(order))))

    def attend(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, step: StepTensors[TorchPlan]) -> Tensor:
        """See AttentionBackend."""
        k_TKD, v_TKD = self.cache.write(layer, step.write_T, k_TKD, v_TKD)
        parts = [self._attend_decode(layer, q_THD.index_select(0, g.tokens_R), g) for g in step.plan.decode]
        for row in step.plan.prefill:
            q, k, v = (x.narrow(0, row.first_token, row.num_tokens) for x in (q_THD, k_TKD, v_TKD))
            new = [_attend(q, k, v, None)] if row.read is None else self._attend_tiles(layer, q, row.read, row.tiles)
            parts.extend(new)
        return torch.cat(parts).index_select(0, step.plan.place_T)

    def _attend_decode(self, layer: int, q_RHD: Tensor, group: DecodeGroup) -> Tensor:
        R, H, D = q_RHD.shape
        K = self.num_kv_heads
        k, v = self.cache.read(layer, group.read)
        # The query heads of a kv head stand where several queries would: 2.5 times as fast as enable_gqa on a CPU.
        o_RKGD = scaled_dot_product_attention(
            q_RHD.view(R, K, H // K, D),
            k.view(R, -1, K, D).transpose(1, 2),
            v.view(R, -1, K, D).transpose(1, 2),
            attn_mask=group.bias_R11N,
        )
        return o_RKGD.reshape(R, H, D)

    def _attend_tiles(
        self, layer: int, q_SHD: Tensor, read: Tensor, tiles: tuple[PrefillTile, ...]
    ) -> Iterator[Tensor]:
        k_NKD, v_NKD = self.cache.read(layer, read)
        for tile in tiles:
            num_queries, num_keys = tile.bias_SN.shape
            q = q_SHD.narrow(0, tile.first_query, num_queries)
            k, v = (x.narrow(0, tile.first_key, num_keys) for x in (k_NKD, v_NKD))
            yield _attend(q, k, v, tile.bias_SN)

    def _similar_rows(self, num_computed: NDArray[np.int64], num_new: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The decode rows, in groups of like contexts that are small enough to gather at once."""
        rows = np.flatnonzero(num_new == 1)
        num_keys = num_computed[rows] + 1 - self._first_visible(num_computed[rows])
        longest_first = np.argsort(-num_keys, kind="stable")
        starts: list[int] = []
        padded = 0
        for i, n in enumerate(num_keys[longest_first].tolist()):
            is_first = i == 0
            is_shorter = padded > max(n * MAX_PADDING, SHORT_CONTEXT)
            if is_first or is_shorter or (i + 1 - starts[-1]) * padded > self.max_group_keys:
                starts.append(i)
                padded = n
        return [np.sort(group) for group in np.split(rows[longest_first], starts)[1:]]

    def _decode_group(
        self,
        tokens: NDArray[np.int64],
        last_R: NDArray[np.int64],
        tables: NDArray[np.int32],
    ) -> DecodeGroup:
        first_R = self._first_visible(last_R)
        num_keys_R = last_R - first_R + 1
        N = int(num_keys_R.max())
        num_blocks = int(last_R.max()) // self.cache.block_size + 1
        first_R1, last_R1 = self._on_device(np.stack((first_R, last_R))).unsqueeze(2).unbind()
        position_RN = first_R1 + torch.arange(N, device=self.device)
        read = self._flat(self._on_device(tables[:, :num_blocks]), position_RN.minimum(last_R1))
        bias_R11N = None
        if num_keys_R.min() < N:
            bias_R11N = self._bias(position_RN <= last_R1).view(-1, 1, 1, N)
        return DecodeGroup(self._on_device(tokens), read.view(-1), bias_R11N)

    def _prefill_row(self, first_token: int, num_computed: int, S: int, table: NDArray[np.int32]) -> PrefillRow:
        end = num_computed + S
        if num_computed == 0 and (self.window is None or self.window >= S):
            return PrefillRow(first_token, S, None)
        first = int(self._first_visible(np.int64(num_computed)))
        position_N = torch.arange(end - 1, first - 1, -1, device=self.device)
        table_1B = self._on_device(table[None, : (end - 1) // self.cache.block_size + 1])
        read = self._flat(table_1B, position_N.unsqueeze(0))
        return PrefillRow(first_token, S, read.view(-1), tuple(self._tiles(num_computed, S)))

    def _tiles(self, num_computed: int, S: int) -> Iterator[PrefillTile]:
        tile_size = max(1, MAX_BIAS_ELEMENTS // (num_computed + S))
        for start in range(0, S, tile_size):
            stop = min(start + tile_size, S)
            first = int(self._first_visible(np.int64(num_computed + start)))
            num_keys = num_computed + stop - first
            yield PrefillTile(start, S - stop, self._causal_bias(stop - start, num_keys))

    def _causal_bias(self, S: int, N: int) -> Tensor:
        """0 where query i sees key j, else -inf: [S, N] for keys newest first, the newest being the last query's own.

        Key j is i + j - (S - 1) tokens older than query i. As that depends on i + j alone, all rows are windows into
        one line of S + N - 1 numbers, each a step further, and nothing of size S * N is made here.
        """
        age = torch.arange(S + N - 1, device=self.device) - (S - 1)
        is_visible = age >= 0 if self.window is None else (age >= 0).logical_and(age < self.window)
        return self._bias(is_visible).as_strided((S, N), (1, 1))

    def _first_visible(self, position: NDArray[np.int64] | np.int64) -> NDArray[np.int64]:
        """The oldest position that a token at `position` sees."""
        window = position + 1 if self.window is None else self.window
        return np.maximum(position + 1 - window, 0)

    def _flat(self, table_RB: Tensor, position_RN: Tensor) -> Tensor:
        block_size = self.cache.block_size
        return table_RB.gather(1, position_RN // block_size) * block_size + position_RN % block_size

    def _bias(self, is_visible: Tensor) -> Tensor:
        return torch.where(is_visible, 0.0, -torch.inf).to(self.dtype)

    def _on_device(self, column: NDArray[np.integer]) -> Tensor:
        return to_device(column.astype(np.int64), self.device)


def _attend(q_SHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, bias_SN: Tensor | None) -> Tensor:
    """Attention of one row; causal with S = N where there's no bias. Returns o_SHD."""
    S, H, D = q_SHD.shape
    N, K, _ = k_NKD.shape
    shape_KGND = (K, H // K, N, D)
    o_KGSD = scaled_dot_product_attention(
        q_SHD.view(S, K, H // K, D).permute(1, 2, 0, 3),
        k_NKD.transpose(0, 1).unsqueeze(1).expand(shape_KGND),
        v_NKD.transpose(0, 1).unsqueeze(1).expand(shape_KGND),
        attn_mask=bias_SN,
        is_causal=bias_SN is None,
    )
    return o_KGSD.permute(2, 0, 1, 3).reshape(S, H, D)
