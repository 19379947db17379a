"""How the kernels are launched on which card: sizes as data, chosen by reasoning and by what compiles without spills.

README.md has the arithmetic. Imports no triton, so that it can be asked where there is none.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch

from model.config import ModelConfig
from model.kv_cache import FP8

MAX_HEAD_DIM = 256
MAX_GROUP = 32
"""Most query heads of one kv head."""
MAX_HIDDEN = 32768
"""Longest row that a norm holds at once."""
_MIN_CAPABILITY = (8, 0)
_LARGE_SHARED_MEMORY = 200 * 1024
"""Bytes that a Hopper or a data-centre Blackwell gives one program; others have 99 or 163 KiB."""


@dataclass(frozen=True, slots=True)
class Card:
    """What launches depend on."""

    num_processors: int
    """Streaming multiprocessors."""
    shared_memory: int
    """Most bytes for one program."""

    @staticmethod
    def of(device: torch.device) -> "Card":
        """The one that is there."""
        properties: Any = torch.cuda.get_device_properties(device)
        return Card(properties.multi_processor_count, properties.shared_memory_per_block_optin)


@dataclass(frozen=True, slots=True)
class AttentionLaunch:
    """Sizes of one attention launch."""

    block_m: int
    """Rows of a tile of queries: tokens times the query heads of a kv head."""
    block_n: int
    """Keys read together."""
    num_warps: int
    num_stages: int
    """Depth of the software pipeline. Keys wait for their block id, so of n stages (n - 1) // 2 are loads of keys."""
    programs_per_processor: int | None = None
    """None: one for each piece and head."""


@dataclass(frozen=True, slots=True)
class AttentionLaunches:
    """Both ways that attention is launched in: see model/attention/pieces.py."""

    split: AttentionLaunch
    tile: AttentionLaunch
    split_size: int = 256
    """Keys of a split; a multiple of `split.block_n`."""


def padded(size: int) -> int:
    """The next power of two, as tensors in a kernel have."""
    return 1 << (size - 1).bit_length()


def attention_launches(config: ModelConfig, card: Card, stored: torch.dtype) -> AttentionLaunches:
    """For a cache of 16-bit numbers, or of FP8, which needs registers to be widened in."""
    group = padded(config.num_heads // config.num_kv_heads)
    is_wide = padded(config.head_dim) > 128
    # 16 rows are the least that a tensor core multiplies.
    split = AttentionLaunch(max(16, group), 32 if is_wide else 64, 4, 5, programs_per_processor=2)
    has_large = card.shared_memory >= _LARGE_SHARED_MEMORY
    if is_wide:
        num_keys = 64 if has_large else 32
        tile = AttentionLaunch(64, num_keys // 2 if stored == FP8 else num_keys, 8, 3)
    else:
        tile = AttentionLaunch(128 if has_large else 64, 64, 8, 5)
    return AttentionLaunches(split, tile)


def unsupported(config: ModelConfig, device: torch.device) -> str | None:
    """None, or the reason why the Triton kernels can't compute the model there."""
    if device.type != "cuda":
        return f"the Triton kernels run on cuda, not on {device.type}"
    if config.head_dim > MAX_HEAD_DIM or config.head_dim % 16:
        return f"the Triton kernels take heads of a multiple of 16 up to {MAX_HEAD_DIM} numbers, not {config.head_dim}"
    if config.num_heads // config.num_kv_heads > MAX_GROUP:
        return f"the Triton kernels take at most {MAX_GROUP} query heads for a kv head"
    if config.hidden_size > MAX_HIDDEN:
        return f"the Triton kernels take hidden states of at most {MAX_HIDDEN} numbers"
    if find_spec("triton") is None:
        return "triton is not installed"
    capability = torch.cuda.get_device_capability(device)
    if capability < _MIN_CAPABILITY:
        return f"the Triton kernels need compute capability 8.0, the card has {'.'.join(map(str, capability))}"
    return None


def unsupported_dtype(dtype: torch.dtype) -> str | None:
    """None, or the reason why weights and cache can't be of this dtype."""
    if dtype in (torch.float16, torch.bfloat16):
        return None
    return f"the Triton kernels compute in float16 and bfloat16, not {str(dtype).removeprefix('torch.')}"
