"""The paged K and V tensors of all layers."""

import torch
from torch import Tensor

from model.config import ModelConfig
from model.errors import NotEnoughMemory

# T tokens, N cache positions, K kv heads, D head size

FP8 = torch.float8_e4m3fn
MAX_FP8 = 448.0
"""The largest number that it has (Micikevicius et al., "FP8 formats for deep learning", 2022, table 1)."""


class KVCache:
    """Keys and values by flat position: token i of block b lives at b * block_size + i, the same in every layer.

    Positions that were never written hold arbitrary bits, NaN among them, so readers must not even load them
    (NaN times a weight of zero is NaN).

    In fp8 (e4m3) a number is rounded to the nearest one of three bits after the leading one, ties to even, and what is
    larger than MAX_FP8 becomes that. There are no scales.
    """

    def __init__(
        self,
        config: ModelConfig,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        stored: torch.dtype | None = None,
    ) -> None:
        """`dtype` is what is written and read; `stored` what is kept, that or FP8.

        Raises NotEnoughMemory, naming the size, when the device can't hold that many blocks.
        """
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.dtype = dtype
        stored = stored or dtype
        shape = (config.num_layers, 2, num_blocks * block_size, config.num_kv_heads, config.head_dim)
        try:
            cache = torch.empty(shape, dtype=stored, device=device)
        except RuntimeError as error:  # torch.OutOfMemoryError on a GPU, a plain RuntimeError on the CPU
            num_bytes = num_blocks * bytes_per_block(config, block_size, stored)
            raise NotEnoughMemory(
                f"no room on {device} for a KV cache of {num_blocks} blocks ({num_bytes / 2**30:.1f} GiB)"
            ) from error
        self.layers: list[tuple[Tensor, Tensor]] = [
            (keys, values) for keys, values in map(torch.unbind, cache.unbind())
        ]
        """For each layer the keys and values, both [N, K, D]."""

    def write(self, layer: int, write_T: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> tuple[Tensor, Tensor]:
        """Stores the tokens' keys and values at flat positions `write_T`, which are distinct.

        Returns them as they will be read.
        """
        k_TKD, v_TKD = self._rounded(k_TKD), self._rounded(v_TKD)
        keys_NKD, values_NKD = self.layers[layer]
        _bits(keys_NKD).index_copy_(0, write_T, _bits(k_TKD))
        _bits(values_NKD).index_copy_(0, write_T, _bits(v_TKD))
        return k_TKD.to(self.dtype), v_TKD.to(self.dtype)

    def read(self, layer: int, read_N: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the flat positions, copied together: both [len(read_N), K, D]."""
        keys_NKD, values_NKD = self.layers[layer]
        k_NKD, v_NKD = keys_NKD.index_select(0, read_N), values_NKD.index_select(0, read_N)
        return k_NKD.to(self.dtype), v_NKD.to(self.dtype)

    def _rounded(self, x_TKD: Tensor) -> Tensor:
        stored = self.layers[0][0].dtype
        # torch makes NaN of what is too large.
        return x_TKD.clamp(-MAX_FP8, MAX_FP8).to(stored) if stored == FP8 else x_TKD


def bytes_per_block(config: ModelConfig, block_size: int, stored: torch.dtype) -> int:
    """Bytes of one block's keys and values over all layers."""
    return config.num_layers * 2 * block_size * config.kv_size * stored.itemsize


def _bits(x: Tensor) -> Tensor:
    """torch copies numbers of 8 bits to indexes only as what they aren't."""
    return x.view(torch.uint8) if x.dtype == FP8 else x
