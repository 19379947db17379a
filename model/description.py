"""What a runner is made with, and what it turned out to be: plain data, no torch."""

from typing import Literal

import msgspec

Kernels = Literal["auto", "torch"]
"""auto takes our own kernels where they're built or triton is, and fit the model; torch computes without them."""
Quantization = Literal["none", "int8", "int4"]
"""What the weights are rounded to while they load."""

KvCacheDtype = Literal["auto", "fp8"]
"""What keys and values are rounded to when they are stored; auto: nothing, they stay in the model's dtype."""


class RunnerOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to serve a model; None and "auto" mean: chosen by model and device."""

    model_dir: str
    draft_model_dir: str | None = None
    """Where the model is that guesses for it."""
    device: str = "auto"
    dtype: str = "auto"
    quantization: Quantization = "none"
    kv_cache_dtype: KvCacheDtype = "auto"
    kernels: Kernels = "auto"
    max_model_len: int | None = None
    max_num_seqs: int = 256
    max_step_tokens: int | None = None
    block_size: int = 16
    kv_cache_bytes: int | None = None
    gpu_memory_utilization: float = 0.9
    num_threads: int | None = None


class Check(msgspec.Struct, frozen=True, array_like=True):
    """What the start found out about one fast way to compute: whether it gives what the plain way gives."""

    part: str
    is_used: bool
    note: str


class DraftInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The model that guesses for another."""

    architecture: str
    num_parameters: int
    weights_bytes: int
    kv_cache_bytes: int


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A model as it is served."""

    architecture: str
    num_parameters: int
    dtype: str
    device: str
    attention: str
    """Name of the attention back end."""
    kernels: str = "torch"
    """What computes: our own kernels with their instruction set, or torch with the reason why not ours."""
    checks: list[Check] = []
    """What was proved at the start, on a GPU."""
    decode_mbu: float | None = None
    """The share of the memory's bandwidth that a decode step of one sequence used at the start, on a GPU."""
    num_threads: int = 1
    """Of what computes, on a CPU."""
    quantization: Quantization = "none"
    vocab_size: int
    max_model_len: int
    max_num_seqs: int
    max_step_tokens: int
    block_size: int
    kv_cache_dtype: str
    num_blocks: int
    eos_token_ids: list[int]
    bos_token_id: int | None
    weights_bytes: int
    kv_cache_bytes: int
    draft: DraftInfo | None = None
    """What guesses for it, beside which its own weights and cache are counted."""
