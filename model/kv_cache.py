"""The paged K and V tensors of all layers."""

import torch
from torch import Tensor

from model.config import ModelConfig
from model.errors import NotEnoughMemory

# T tokens, N cache positions, K kv heads, D head size


class KVCache:
    """Keys and values by flat position: token i of block b lives at b * block_size + i, the same in every layer.

    Positions that were never written hold arbitrary bits, NaN among them, so readers must not even load them
    (NaN times a weight of zero is NaN).
    """

    def __init__(
        self,
        config: ModelConfig,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        """Raises NotEnoughMemory, naming the size, when the device can't hold that many blocks."""
        self.num_blocks = num_blocks
        self.block_size = block_size
        shape = (config.num_layers, 2, num_blocks * block_size, config.num_kv_heads, config.head_dim)
        try:
            cache = torch.empty(shape, dtype=dtype, device=device)
        except RuntimeError as error:  # torch.OutOfMemoryError on a GPU, a plain RuntimeError on the CPU
            num_bytes = num_blocks * bytes_per_block(config, block_size, dtype)
            raise NotEnoughMemory(
                f"no room on {device} for a KV cache of {num_blocks} blocks ({num_bytes / 2**30:.1f} GiB)"
            ) from error
        self.layers: list[tuple[Tensor, Tensor]] = [
            (keys, values) for keys, values in map(torch.unbind, cache.unbind())
        ]
        """For each layer the keys and values, both [N, K, D]."""

    def write(self, layer: int, write_T: Tensor, k_TKD: Tensor, v_TKD: Tensor) -> None:
        """Stores the tokens' keys and values at flat positions `write_T`, which are distinct."""
        keys_NKD, values_NKD = self.layers[layer]
        keys_NKD.index_copy_(0, write_T, k_TKD)
        values_NKD.index_copy_(0, write_T, v_TKD)

    def read(self, layer: int, read_N: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the flat positions, copied together: both [len(read_N), K, D]."""
        keys_NKD, values_NKD = self.layers[layer]
        return keys_NKD.index_select(0, read_N), values_NKD.index_select(0, read_N)


def bytes_per_block(config: ModelConfig, block_size: int, dtype: torch.dtype) -> int:
    """Bytes of one block's keys and values over all layers."""
    return config.num_layers * 2 * block_size * config.kv_size * dtype.itemsize
