"""Which number format a model is served in."""

import torch

from model.config import ModelConfig
from model.description import KvCacheDtype
from model.errors import UnsupportedModel
from model.kv_cache import FP8

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


def serving_dtype(name: str, config: ModelConfig, device: torch.device, *, has_cpu_kernels: bool) -> torch.dtype:
    """The dtype called `name`, or for "auto" the one that is fastest here.

    On a GPU that is the checkpoint's own 16-bit format, and bfloat16 for a float32 checkpoint (float16 where the card
    is too old for bfloat16). On a CPU with our kernels it is bfloat16: weights and KV cache are stored in it, half as
    much to read as float32 for every token, while activations and sums stay float32. With torch's kernels it is
    bfloat16 if the processor multiplies it in hardware (AVX512_BF16, AMX), else float32: without such instructions
    torch's bfloat16 products of several rows take many times as long.
    Raises UnsupportedModel for other names.
    """
    if name != "auto":
        if name not in DTYPES:
            raise UnsupportedModel(f"dtype {name!r} is not supported; auto, {', '.join(DTYPES)} are")
        return DTYPES[name]
    if device.type == "cpu":
        return torch.bfloat16 if has_cpu_kernels or _cpu_multiplies_bfloat16() else torch.float32
    if config.stored_dtype == "float16" or not torch.cuda.is_bf16_supported(including_emulation=False):
        return torch.float16
    return torch.bfloat16


def cache_dtype(name: KvCacheDtype, dtype: torch.dtype) -> torch.dtype:
    """What keys and values are stored in where the model is served in `dtype`."""
    return FP8 if name == "fp8" else dtype


def name_of(dtype: torch.dtype) -> str:
    """As users know it."""
    return "fp8" if dtype == FP8 else str(dtype).removeprefix("torch.")


def _cpu_multiplies_bfloat16() -> bool:
    if not hasattr(torch.cpu, "get_capabilities"):  # older than torch 2.13
        return False
    capabilities = torch.cpu.get_capabilities()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
