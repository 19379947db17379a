"""What a runner's options leave open, decided by model and device."""

from dataclasses import dataclass
from pathlib import Path

import torch

from model.attention.cpu import CpuAttention
from model.config import ModelConfig
from model.description import RunnerOptions
from model.dtype import cache_dtype, serving_dtype
from model.errors import UnsupportedModel
from model.families.registry import config_from_directory
from model.kernels.cpu.library import unavailable
from model.kernels.triton.launches import unsupported, unsupported_dtype

# A step's token budget where the operator sets none. A CPU computes a few hundred prompt tokens a second: more in one
# step would make the streams that decode beside them wait.
MAX_STEP_TOKENS = {"cpu": 512, "cuda": 8192}


@dataclass(slots=True, frozen=True)
class Choices:
    """How a model is computed."""

    config: ModelConfig
    device: torch.device
    dtype: torch.dtype
    cache_dtype: torch.dtype
    max_model_len: int
    max_step_tokens: int
    against_kernels: str | None
    """Why our own kernels can't compute the model, those for the CPU or the Triton ones; None where they do."""
    has_sampling_kernel: bool = False
    """Whether the Triton kernel draws the tokens."""


def choose(options: RunnerOptions) -> Choices:
    """Decide. Raises ModelError for what can't be computed as asked."""
    device = _device(options.device)
    config = config_from_directory(Path(options.model_dir))
    against_cpu = _against_cpu_kernels(options, config, device)
    dtype = serving_dtype(options.dtype, config, device, has_cpu_kernels=against_cpu is None)
    against_cpu = against_cpu or CpuAttention.supports_cache(options.block_size, dtype)
    if against_cpu and options.quantization != "none":
        raise UnsupportedModel(f"--quantization {options.quantization} needs the CPU kernels, but {against_cpu}")
    if options.kv_cache_dtype == "fp8" and not against_cpu:
        raise UnsupportedModel("the CPU kernels have no --kv-cache-dtype fp8: leave it out, or add --kernels torch")
    return Choices(
        config=config,
        device=device,
        dtype=dtype,
        cache_dtype=cache_dtype(options.kv_cache_dtype, dtype),
        max_model_len=_max_model_len(options.max_model_len, config),
        max_step_tokens=max(options.max_step_tokens or MAX_STEP_TOKENS[device.type], options.max_num_seqs),
        against_kernels=against_cpu if device.type == "cpu" else _against_triton(options, config, device, dtype),
    )


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UnsupportedModel(f"device {name!r} is not known; auto, cpu and cuda are") from None
    if device.type not in MAX_STEP_TOKENS:
        raise UnsupportedModel(f"device {name!r} is not supported; auto, cpu and cuda are")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UnsupportedModel("device 'cuda' was asked for, but torch finds no usable GPU here")
    if device.type == "cuda" and device.index is not None:
        torch.cuda.set_device(device)  # Triton launches on the current one, wherever the tensors are
    return device


def _against_cpu_kernels(options: RunnerOptions, config: ModelConfig, device: torch.device) -> str | None:
    """None where our own CPU kernels can compute the model, else the reason why not."""
    if options.kernels == "torch":
        return "--kernels torch says so"
    return CpuAttention.supports(config, device) or unavailable()


def _against_triton(
    options: RunnerOptions, config: ModelConfig, device: torch.device, dtype: torch.dtype
) -> str | None:
    """The same for our Triton kernels."""
    if options.kernels == "torch":
        return "--kernels torch says so"
    return unsupported_dtype(dtype) or unsupported(config, device)


def _max_model_len(wanted: int | None, config: ModelConfig) -> int:
    if wanted is None:
        return config.max_model_len
    if wanted > config.max_model_len:
        raise UnsupportedModel(f"--max-model-len {wanted} is more than the model's own {config.max_model_len}")
    return wanted
