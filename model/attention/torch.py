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

# T tokens in the step, R rows of a group, S new tokens of a prefill row, N keys,
# H query heads, K kv heads, G = H / K query heads that share a kv head, D head size

MAX_BIAS_ELEMENTS = 2**24
"""Most scores one prefill call may need a bias for: some kernels copy the bias to memory in full."""
SMALLEST_GROUP = 128
"""Decode rows with fewer keys share a group: a call costs more than the padding."""


@dataclass(frozen=True, slots=True)
class DecodeGroup:
    """Rows of one new token each, over similarly long contexts."""

    tokens: slice | Tensor
    """Their places among the step's tokens."""
    read: Tensor
    """int64 [R * N], flat cache positions, each row's oldest key first."""
    bias_R11N: Tensor | None
    """0 for a row's keys, -inf for padding; None where all rows have N keys."""


@dataclass(frozen=True, slots=True)
class PrefillTile:
    """Some of a prefill row's queries and the keys that they see."""

    queries: slice
    keys: slice
    bias_SN: Tensor


@dataclass(frozen=True, slots=True)
class PrefillRow:
    """Several new tokens of one sequence."""

    tokens: slice
    read: Tensor | None
    """int64 [N], flat cache positions, newest key first; None for the start of a sequence, which sees only itself."""
    tiles: tuple[PrefillTile, ...] = ()


@dataclass(frozen=True, slots=True)
class TorchPlan:
    """Who attends together in one step."""

    decode: list[DecodeGroup]
    prefill: list[PrefillRow]


class TorchAttention:
    """Attention with the kernels that torch has."""

    def __init__(self, config: ModelConfig, cache: KVCache) -> None:
        self.cache = cache
        self.num_kv_heads = config.num_kv_heads
        self.window = config.sliding_window
        keys, _ = cache.layers[0]
        self.device = keys.device
        self.dtype = keys.dtype

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
        first_tokens = np.cumsum(num_new) - num_new
        decode = [
            self._decode_group(first_tokens[rows], num_computed[rows], block_tables[slots[rows]])
            for rows in self._similar_rows(num_computed, num_new)
        ]
        prefill = [
            self._prefill_row(int(first_tokens[r]), int(num_computed[r]), int(num_new[r]), block_tables[slots[r]])
            for r in np.flatnonzero(num_new > 1)
        ]
        return TorchPlan(decode, prefill)

    def attend(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, step: StepTensors[TorchPlan]) -> Tensor:
        """See AttentionBackend."""
        self.cache.write(layer, step.write_T, k_TKD, v_TKD)
        o_THD = torch.empty(q_THD.shape, dtype=q_THD.dtype, device=q_THD.device)
        for group in step.plan.decode:
            o_THD[group.tokens] = self._attend_decode(layer, q_THD[group.tokens], group)
        for row in step.plan.prefill:
            if row.read is None:
                new = row.tokens
                o_THD[new] = _attend(q_THD[new], k_TKD[new], v_TKD[new], None)
            else:
                self._attend_prefill(layer, q_THD[row.tokens], row.read, row.tiles, o_THD[row.tokens])
        return o_THD

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

    def _attend_prefill(
        self, layer: int, q_SHD: Tensor, read: Tensor, tiles: tuple[PrefillTile, ...], o_SHD: Tensor
    ) -> None:
        k_NKD, v_NKD = self.cache.read(layer, read)
        for tile in tiles:
            o_SHD[tile.queries] = _attend(q_SHD[tile.queries], k_NKD[tile.keys], v_NKD[tile.keys], tile.bias_SN)

    def _similar_rows(self, num_computed: NDArray[np.int64], num_new: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The decode rows, in groups whose longest context is at most a quarter longer than the shortest."""
        groups: dict[int, list[int]] = {}
        for r in np.flatnonzero(num_new == 1).tolist():
            num_keys = min(int(num_computed[r]) + 1, self.window or MAX_BIAS_ELEMENTS)
            groups.setdefault(_rounded_up(num_keys), []).append(r)
        return [np.array(rows, dtype=np.int64) for rows in groups.values()]

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
        first_R1, last_R1 = self._on_device(np.stack((first_R, last_R))).unsqueeze(2)
        position_RN = first_R1 + torch.arange(N, device=self.device)
        read = self._flat(self._on_device(tables[:, :num_blocks]), position_RN.minimum(last_R1))
        bias_R11N = None
        if num_keys_R.min() < N:
            bias_R11N = self._bias(position_RN <= last_R1)[:, None, None, :]
        return DecodeGroup(self._places(tokens), read.view(-1), bias_R11N)

    def _prefill_row(self, first_token: int, num_computed: int, S: int, table: NDArray[np.int32]) -> PrefillRow:
        tokens = slice(first_token, first_token + S)
        end = num_computed + S
        if num_computed == 0 and (self.window is None or self.window >= S):
            return PrefillRow(tokens, None)
        first = int(self._first_visible(np.int64(num_computed)))
        position_N = torch.arange(end - 1, first - 1, -1, device=self.device)
        table_1B = self._on_device(table[None, : (end - 1) // self.cache.block_size + 1])
        read = self._flat(table_1B, position_N[None])
        return PrefillRow(tokens, read.view(-1), tuple(self._tiles(num_computed, S)))

    def _tiles(self, num_computed: int, S: int) -> Iterator[PrefillTile]:
        tile_size = max(1, MAX_BIAS_ELEMENTS // (num_computed + S))
        for start in range(0, S, tile_size):
            stop = min(start + tile_size, S)
            first = int(self._first_visible(np.int64(num_computed + start)))
            keys = slice(S - stop, num_computed + S - first)
            yield PrefillTile(slice(start, stop), keys, self._causal_bias(stop - start, keys.stop - keys.start))

    def _causal_bias(self, S: int, N: int) -> Tensor:
        """0 where query i sees key j, else -inf: [S, N] for keys newest first, the newest being the last query's own.

        Key j is i + j - (S - 1) tokens older than query i. As that depends on i + j alone, all rows are windows into
        one line of S + N - 1 numbers, each a step further, and nothing of size S * N is made here.
        """
        age = torch.arange(S + N - 1, device=self.device) - (S - 1)
        is_visible = age >= 0 if self.window is None else (age >= 0) & (age < self.window)
        return self._bias(is_visible).as_strided((S, N), (1, 1))

    def _first_visible(self, position: NDArray[np.int64] | np.int64) -> NDArray[np.int64]:
        """The oldest position that a token at `position` sees."""
        window = position + 1 if self.window is None else self.window
        return np.maximum(position + 1 - window, 0)

    def _flat(self, table_RB: Tensor, position_RN: Tensor) -> Tensor:
        block_size = self.cache.block_size
        return table_RB.gather(1, position_RN // block_size) * block_size + position_RN % block_size

    def _bias(self, is_visible: Tensor) -> Tensor:
        bias = torch.zeros(is_visible.shape, dtype=self.dtype, device=self.device)
        return bias.masked_fill_(~is_visible, -torch.inf)

    def _places(self, tokens: NDArray[np.int64]) -> slice | Tensor:
        first, last = int(tokens[0]), int(tokens[-1])
        return slice(first, last + 1) if last - first + 1 == len(tokens) else self._on_device(tokens)

    def _on_device(self, column: NDArray[np.integer]) -> Tensor:
        return torch.tensor(column, dtype=torch.int64).to(self.device, non_blocking=True)


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


def _rounded_up(num_keys: int) -> int:
    """The next of SMALLEST_GROUP, then 5/4, 6/4, 7/4 and 8/4 of each power of two."""
    if num_keys <= SMALLEST_GROUP:
        return SMALLEST_GROUP
    quarter = 1 << ((num_keys - 1).bit_length() - 3)
    return -(-num_keys // quarter) * quarter
