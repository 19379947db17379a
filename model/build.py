"""From a model's directory to a runner that has run its first step."""

from collections.abc import Callable
from pathlib import Path

import torch

from model.attention.torch import TorchAttention
from model.batch import Batch, Join, SamplingParams
from model.config import ModelConfig
from model.description import ModelInfo, RunnerOptions
from model.dtype import serving_dtype
from model.errors import NotEnoughMemory, UnsupportedModel
from model.families.registry import config_from_directory
from model.kv_cache import KVCache, bytes_per_block
from model.loader import load_weights
from model.memory import available_memory
from model.runner import ModelRunner
from model.sampler import Sampler
from model.threads import available_cores
from model.transformer import Transformer

# A step's token budget where the operator sets none. A CPU computes a few hundred prompt tokens a second: more in one
# step would make the streams that decode beside them wait.
MAX_STEP_TOKENS = {"cpu": 512, "cuda": 8192}
# Share of the memory left after the weights that the KV cache takes on a CPU, where other programs live too.
CPU_CACHE_SHARE = 0.25

Progress = Callable[[str, float], None]
"""Told the phase of the start in words, and how far it is (0 to 1)."""


def build_runner(options: RunnerOptions, progress: Progress) -> tuple[ModelRunner, ModelInfo]:
    """Load the weights, size and allocate the KV cache, run a first step. Raises ModelError with one clear line."""
    directory = Path(options.model_dir)
    device = _device(options.device)
    torch.set_num_threads(options.num_threads or available_cores())
    config = config_from_directory(directory)
    dtype = serving_dtype(options.dtype, config, device)
    max_model_len = _max_model_len(options.max_model_len, config)
    max_step_tokens = max(options.max_step_tokens or MAX_STEP_TOKENS[device.type], options.max_num_seqs)
    model = Transformer(config, dtype, device)
    load_weights(model, directory, lambda fraction: progress("loading weights", fraction))

    def runner_with(num_blocks: int) -> ModelRunner:
        cache = KVCache(config, num_blocks, options.block_size, dtype, device)
        return ModelRunner(
            model,
            TorchAttention(config, cache),
            Sampler(options.max_num_seqs, config.vocab_size, config.eos_token_ids, device),
            max_num_seqs=options.max_num_seqs,
            max_model_len=max_model_len,
            block_size=options.block_size,
        )

    progress("warming up", 0.0)
    block_bytes = bytes_per_block(config, options.block_size, dtype)
    sequence_blocks = -(-max_model_len // options.block_size)
    largest_step = min(max_step_tokens, max_model_len - 1)
    trial = runner_with(-(-(largest_step + 1) // options.block_size))
    _run_once(trial, largest_step if device.type == "cuda" else 1)
    del trial
    cache_bytes = options.kv_cache_bytes or _cache_budget(options, device)
    num_blocks = min(cache_bytes // block_bytes, options.max_num_seqs * sequence_blocks)
    if num_blocks < sequence_blocks:
        raise NotEnoughMemory(
            f"the KV cache may take {cache_bytes / 2**30:.2f} GiB, but one sequence of {max_model_len} tokens takes "
            f"{sequence_blocks * block_bytes / 2**30:.2f} GiB; lower --max-model-len or raise --kv-cache-memory-bytes"
        )
    runner = runner_with(num_blocks)
    _run_once(runner, 1)
    weights = list(model.parameters())
    return runner, ModelInfo(
        architecture=config.architecture,
        num_parameters=sum(weight.numel() for weight in weights),
        dtype=str(dtype).removeprefix("torch."),
        device=str(device),
        attention="torch",
        vocab_size=config.vocab_size,
        max_model_len=max_model_len,
        max_num_seqs=options.max_num_seqs,
        max_step_tokens=max_step_tokens,
        block_size=options.block_size,
        num_blocks=num_blocks,
        eos_token_ids=list(config.eos_token_ids),
        bos_token_id=config.bos_token_id,
        weights_bytes=sum(weight.numel() * weight.element_size() for weight in weights),
        kv_cache_bytes=num_blocks * block_bytes,
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
    return device


def _max_model_len(wanted: int | None, config: ModelConfig) -> int:
    if wanted is None:
        return config.max_model_len
    if wanted > config.max_model_len:
        raise UnsupportedModel(f"--max-model-len {wanted} is more than the model's own {config.max_model_len}")
    return wanted


def _cache_budget(options: RunnerOptions, device: torch.device) -> int:
    """Bytes for the KV cache, once weights are loaded and a largest step has shown what else a step takes."""
    if device.type == "cpu":
        return int(available_memory() * CPU_CACHE_SHARE)
    torch.cuda.synchronize(device)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    stats = torch.cuda.memory_stats(device)
    step_bytes = stats["allocated_bytes.all.peak"] - stats["allocated_bytes.all.current"]
    return int(free - step_bytes - total * (1 - options.gpu_memory_utilization))


def _run_once(runner: ModelRunner, num_tokens: int) -> None:
    """Compute a prompt of `num_tokens` in one step, and draw from it, in the first blocks."""
    num_blocks = -(-num_tokens // runner.block_size)
    batch = Batch(
        slots=[0],
        num_computed=[0],
        num_new=[num_tokens],
        is_sampled=[True],
        joins=[Join(0, [0] * num_tokens, num_tokens, 0, SamplingParams(max_tokens=1))],
        block_slots=[0] * num_blocks,
        block_indexes=list(range(num_blocks)),
        block_ids=list(range(num_blocks)),
    )
    runner.run(batch)
