"""From a model's directory to a runner that has run its first step."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from model.attention.base import AttentionBackend
from model.attention.cpu import CpuAttention
from model.attention.torch import TorchAttention
from model.batch import Batch, Join, Proposal, SamplingParams
from model.config import ModelConfig
from model.description import Check, DraftInfo, ModelInfo, RunnerOptions
from model.draft import draft_config
from model.dtype import cache_dtype, name_of, serving_dtype
from model.errors import NotEnoughMemory, UnsupportedModel
from model.families.registry import config_from_directory
from model.kernels.cpu.layout import WeightFormat
from model.kernels.cpu.library import CpuKernels, unavailable
from model.kernels.cpu.packing import Packer, packed_bytes
from model.kernels.cpu.sampler import CpuSampler
from model.kernels.triton.launches import Card, attention_launches, unsupported, unsupported_dtype
from model.kv_cache import KVCache
from model.kv_cache import bytes_per_block as torch_bytes_per_block
from model.loader import load_weights
from model.memory import available_memory
from model.runner import DraftModel, ModelRunner
from model.sampler import Sampler
from model.selfcheck import LENGTHS, LONG, Probe, check_execution
from model.threads import available_cores
from model.transformer import Transformer

# A step's token budget where the operator sets none. A CPU computes a few hundred prompt tokens a second: more in one
# step would make the streams that decode beside them wait.
MAX_STEP_TOKENS = {"cpu": 512, "cuda": 8192}
# Share of the memory left after the weights that the KV cache takes on a CPU, where other programs live too.
CPU_CACHE_SHARE = 0.25
# Weights that one core's cache holds are read faster than several threads agree who reads what: with 2 M parameters one
# thread was as fast as two on an idle machine, and ten times as fast where another program wanted a core as well.
ONE_THREAD_BYTES = 16 * 2**20
# The cache has room for this many sequences of full length, if memory allows, even where fewer run at once: what has
# ended is worth keeping for those that begin alike.
MIN_CACHED_SEQS = 16
# Set aside for recorded decode steps. They share the memory of the largest, which for 256 rows of a model with 8192
# numbers a token is a tenth of this; the rest is for what the driver keeps of each.
GRAPH_BYTES = 2**29

Progress = Callable[[str, float], None]
"""Told the phase of the start in words, and how far it is (0 to 1)."""


@dataclass(slots=True, frozen=True)
class _Choices:
    """What the options leave open, decided by model and device."""

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


@dataclass(slots=True, frozen=True)
class _Loaded:
    """A model with its weights."""

    model: Transformer
    chosen: _Choices
    kernels: CpuKernels | None
    """Ours for the CPU, where they compute it."""
    num_parameters: int
    weights_bytes: int
    checks: list[Check]
    """Whether ours for a GPU compute it, where they could."""

    def backend(self, num_blocks: int, block_size: int) -> AttentionBackend[Any]:
        """With a cache of its own."""
        return _backend(self.kernels, self.chosen, num_blocks, block_size)

    def block_bytes(self, block_size: int) -> int:
        """What a block takes in that cache."""
        bytes_per_block = torch_bytes_per_block if self.kernels is None else CpuAttention.bytes_per_block
        return bytes_per_block(self.chosen.config, block_size, self.chosen.cache_dtype)


def build_runner(options: RunnerOptions, progress: Progress) -> tuple[ModelRunner, ModelInfo]:
    """Load the weights, size and allocate the KV cache, run a first step. Raises ModelError with one clear line."""
    chosen = _choose(options)
    draft_options = _draft_options(options, chosen)  # refuses before minutes of loading
    loaded = _load(options, chosen, progress)
    draft = None
    if draft_options is not None:
        draft = _load(draft_options, _choose(draft_options), progress, beside=loaded)
    kernels = loaded.kernels
    chosen, sampling_checks = _with_proved_sampling(loaded.chosen)
    num_threads = torch.get_num_threads()
    if kernels is not None and (draft is None or draft.kernels is not None):
        # What is left to torch is small. Its threads spin for a while after each operation, on the cores of ours: with
        # two of them a step of sixteen sequences of a 135M model took 1.4 times as long.
        torch.set_num_threads(1)

    def runner_with(num_blocks: int) -> ModelRunner:
        return ModelRunner(
            loaded.model,
            # One more than the scheduler knows: rows of padding write there.
            loaded.backend(num_blocks + 1, options.block_size),
            _sampler(kernels, chosen, options.max_num_seqs),
            max_num_seqs=options.max_num_seqs,
            max_model_len=chosen.max_model_len,
            block_size=options.block_size,
            draft=None if draft is None else DraftModel(draft.model, draft.backend(num_blocks + 1, options.block_size)),
        )

    progress("warming up", 0.0)
    block_bytes = loaded.block_bytes(options.block_size)
    draft_block_bytes = 0 if draft is None else draft.block_bytes(options.block_size)
    num_blocks = _num_blocks(options, chosen, block_bytes + draft_block_bytes, runner_with)
    runner = runner_with(num_blocks)
    recording = functools.partial(progress, "recording decode steps")
    checks = check_execution(
        runner,
        _probe(options, chosen),
        name_of(chosen.dtype),
        lambda: runner.record_graphs(num_blocks, GRAPH_BYTES, recording),
    )
    runner.run(largest_batch(1, 1, 1, options.block_size))
    return runner, ModelInfo(
        architecture=chosen.config.architecture,
        num_parameters=loaded.num_parameters,
        dtype=name_of(chosen.dtype),
        device=str(chosen.device),
        attention="torch" if chosen.against_kernels else "paged",
        kernels=_computing(kernels, chosen),
        num_threads=num_threads,
        checks=[*loaded.checks, *([] if draft is None else draft.checks), *sampling_checks, *checks],
        quantization=options.quantization,
        vocab_size=chosen.config.vocab_size,
        max_model_len=chosen.max_model_len,
        max_num_seqs=options.max_num_seqs,
        max_step_tokens=chosen.max_step_tokens,
        block_size=options.block_size,
        kv_cache_dtype=name_of(chosen.cache_dtype),
        num_blocks=num_blocks,
        eos_token_ids=list(chosen.config.eos_token_ids),
        bos_token_id=chosen.config.bos_token_id,
        weights_bytes=loaded.weights_bytes,
        kv_cache_bytes=num_blocks * block_bytes,
        draft=None if draft is None else _draft_info(draft, num_blocks * draft_block_bytes),
    )


def _draft_info(draft: _Loaded, kv_cache_bytes: int) -> DraftInfo:
    return DraftInfo(
        architecture=draft.chosen.config.architecture,
        num_parameters=draft.num_parameters,
        weights_bytes=draft.weights_bytes,
        kv_cache_bytes=kv_cache_bytes,
    )


def _sampler(kernels: CpuKernels | None, chosen: _Choices, max_num_seqs: int) -> Sampler:
    config = chosen.config
    if kernels is not None:
        return CpuSampler(kernels, max_num_seqs, config.vocab_size, config.eos_token_ids)
    if chosen.has_sampling_kernel:
        from model.kernels.triton.sampler import TritonSampler

        return TritonSampler(max_num_seqs, config.vocab_size, config.eos_token_ids, chosen.device)
    return Sampler(max_num_seqs, config.vocab_size, config.eos_token_ids, chosen.device)


def _choose(options: RunnerOptions) -> _Choices:
    device = _device(options.device)
    config = config_from_directory(Path(options.model_dir))
    against_cpu = _against_cpu_kernels(options, config, device)
    dtype = serving_dtype(options.dtype, config, device, has_cpu_kernels=against_cpu is None)
    against_cpu = against_cpu or CpuAttention.supports_cache(options.block_size, dtype)
    if against_cpu and options.quantization != "none":
        raise UnsupportedModel(f"--quantization {options.quantization} needs the CPU kernels, but {against_cpu}")
    if options.kv_cache_dtype == "fp8" and not against_cpu:
        raise UnsupportedModel("the CPU kernels have no --kv-cache-dtype fp8: leave it out, or add --kernels torch")
    return _Choices(
        config=config,
        device=device,
        dtype=dtype,
        cache_dtype=cache_dtype(options.kv_cache_dtype, dtype),
        max_model_len=_max_model_len(options.max_model_len, config),
        max_step_tokens=max(options.max_step_tokens or MAX_STEP_TOKENS[device.type], options.max_num_seqs),
        against_kernels=against_cpu if device.type == "cpu" else _against_triton(options, config, device, dtype),
    )


def _draft_options(options: RunnerOptions, chosen: _Choices) -> RunnerOptions | None:
    """How the draft model is to be loaded, if there is one: as the model itself is."""
    if options.draft_model_dir is None:
        return None
    draft_config(Path(options.draft_model_dir), chosen.config, chosen.max_model_len)
    return msgspec.structs.replace(
        options, model_dir=options.draft_model_dir, draft_model_dir=None, max_model_len=chosen.max_model_len
    )


def _load(options: RunnerOptions, chosen: _Choices, progress: Progress, *, beside: _Loaded | None = None) -> _Loaded:
    """Read the weights, packed or computed with where our kernels can. `beside` another model: with its threads."""
    model, directory = Transformer(chosen.config, chosen.dtype, chosen.device), Path(options.model_dir)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    told = functools.partial(progress, "loading weights" if beside is None else "loading the draft model's weights")
    if beside is None:
        torch.set_num_threads(options.num_threads or _num_threads(model))
    if chosen.against_kernels or chosen.device.type == "cuda":
        load_weights(model, directory, told)
        proved, checks = _with_proved_kernels(model, options, chosen, progress)
        return _Loaded(model, proved, None, num_parameters, _size(model), checks)
    kernels = (beside and beside.kernels) or CpuKernels(torch.get_num_threads())
    load_weights(model, directory, told, Packer(model, kernels, _weight_format(options, chosen.dtype)).filled)
    return _Loaded(model, chosen, kernels, num_parameters, packed_bytes(model), [])


def _with_proved_kernels(
    model: Transformer, options: RunnerOptions, chosen: _Choices, progress: Progress
) -> tuple[_Choices, list[Check]]:
    """On a GPU, put the Triton kernels into the loaded model if they compute what torch does."""
    if chosen.against_kernels or chosen.device.type == "cpu":
        return chosen, []
    from model.kernels.triton.proof import use_if_proved

    progress("compiling kernels", 0.0)
    probe = _probe(options, chosen)

    def probing(against_kernels: str | None) -> ModelRunner:
        return ModelRunner(
            model,
            _backend(None, replace(chosen, against_kernels=against_kernels), probe.num_blocks, options.block_size),
            _sampler(None, chosen, options.max_num_seqs),
            max_num_seqs=options.max_num_seqs,
            max_model_len=chosen.max_model_len,
            block_size=options.block_size,
        )

    check = use_if_proved(model, probe, lambda: probing("they are proved"), lambda: probing(None))
    return replace(chosen, against_kernels=None if check.is_used else "the Triton kernels are not proved"), [check]


def _with_proved_sampling(chosen: _Choices) -> tuple[_Choices, list[Check]]:
    """Where the Triton kernels compute, draw with theirs too if it draws what torch does."""
    if chosen.against_kernels or chosen.device.type == "cpu":
        return chosen, []
    from model.kernels.triton.proof import sampling_check

    check = sampling_check(chosen.config.vocab_size, chosen.device)
    return replace(chosen, has_sampling_kernel=check.is_used), [check]


def _backend(kernels: CpuKernels | None, chosen: _Choices, num_blocks: int, block_size: int) -> AttentionBackend[Any]:
    if kernels is not None:
        return CpuAttention(kernels, chosen.config, num_blocks, block_size, chosen.dtype)
    cache = KVCache(chosen.config, num_blocks, block_size, chosen.dtype, chosen.device, stored=chosen.cache_dtype)
    if chosen.against_kernels:
        return TorchAttention(chosen.config, cache)
    from model.attention.triton import TritonAttention

    card = Card.of(chosen.device)
    return TritonAttention(chosen.config, cache, card, attention_launches(chosen.config, card, chosen.cache_dtype))


def _computing(kernels: CpuKernels | None, chosen: _Choices) -> str:
    if chosen.against_kernels:
        return f"torch, as {chosen.against_kernels}"
    return "own kernels, triton" if kernels is None else f"own kernels, {kernels.level}"


def _probe(options: RunnerOptions, chosen: _Choices) -> Probe:
    return Probe(
        vocab_size=chosen.config.vocab_size,
        max_model_len=chosen.max_model_len,
        max_num_seqs=options.max_num_seqs,
        block_size=options.block_size,
        first=LONG if chosen.device.type == "cuda" else LENGTHS[0],
    )


def _num_blocks(
    options: RunnerOptions, chosen: _Choices, block_bytes: int, runner_with: Callable[[int], ModelRunner]
) -> int:
    """Blocks that fit, and no more than are of use. Raises NotEnoughMemory if not one sequence of full length fits."""
    cache_bytes = options.kv_cache_bytes
    if cache_bytes is None:
        largest = largest_batch(options.max_num_seqs, chosen.max_step_tokens, chosen.max_model_len, options.block_size)
        if options.draft_model_dir is not None:
            largest.proposals[0] = Proposal(largest.num_computed[0], largest.num_new[0])
        cache_bytes = _cache_budget(chosen.device, options.gpu_memory_utilization, lambda: runner_with(1), largest)
    sequence_blocks = -(-chosen.max_model_len // options.block_size)
    num_blocks = min(cache_bytes // block_bytes, max(options.max_num_seqs, MIN_CACHED_SEQS) * sequence_blocks)
    if num_blocks < sequence_blocks:
        raise NotEnoughMemory(
            f"the KV cache may take {cache_bytes / 2**20:.2f} MiB, but one sequence of {chosen.max_model_len} tokens "
            f"takes {sequence_blocks * block_bytes / 2**20:.2f} MiB; "
            "lower --max-model-len or raise --kv-cache-memory-bytes"
        )
    return num_blocks


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


def _num_threads(model: Transformer) -> int:
    return 1 if _size(model) <= ONE_THREAD_BYTES else available_cores()


def _size(model: Transformer) -> int:
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


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


def _weight_format(options: RunnerOptions, dtype: torch.dtype) -> WeightFormat:
    if options.quantization != "none":
        return options.quantization
    return "float32" if dtype == torch.float32 else "bfloat16"


def _max_model_len(wanted: int | None, config: ModelConfig) -> int:
    if wanted is None:
        return config.max_model_len
    if wanted > config.max_model_len:
        raise UnsupportedModel(f"--max-model-len {wanted} is more than the model's own {config.max_model_len}")
    return wanted


def _cache_budget(
    device: torch.device, utilization: float, make_trial: Callable[[], ModelRunner], largest: Batch
) -> int:
    """Bytes for the KV cache, once the weights are loaded: of a GPU, what they, the largest step and graphs leave."""
    if device.type == "cpu":
        return int(available_memory() * CPU_CACHE_SHARE)
    torch.cuda.reset_peak_memory_stats(device)  # of what loading took besides the weights
    trial = make_trial()
    graph_bytes = GRAPH_BYTES if trial.can_record else 0
    try:
        trial.run(largest)
    except torch.OutOfMemoryError:
        raise NotEnoughMemory(
            f"no room on {device} for a largest step beside the weights; "
            "lower --max-num-batched-tokens, --max-num-seqs or --max-model-len"
        ) from None
    del trial
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    step_bytes = torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)
    return int(free - step_bytes - graph_bytes - total * (1 - utilization))


def largest_batch(max_num_seqs: int, max_step_tokens: int, max_model_len: int, block_size: int) -> Batch:
    """The step that takes most memory: every slot full, one by prefill, drawn from with every parameter in use.

    All blocks are block 0, so that its cache takes next to nothing; what it computes means nothing.
    """
    params = SamplingParams(
        max_tokens=1,
        top_k=2,
        top_p=0.5,
        min_p=0.1,
        repetition_penalty=1.1,
        frequency_penalty=0.1,
        logprobs=20,
        prompt_logprobs=20,
    )
    # One token short of the whole context at most: what has nothing before it need not be gathered from the cache.
    num_prefill = min(max_step_tokens - (max_num_seqs - 1), max(1, max_model_len - 1))
    num_new = [num_prefill] + [1] * (max_num_seqs - 1)
    num_blocks = -(-max_model_len // block_size)
    slots = list(range(max_num_seqs))
    token_ids = [0] * max_model_len
    return Batch(
        slots=slots,
        num_computed=[max_model_len - count for count in num_new],
        num_new=num_new,
        is_sampled=[True] * max_num_seqs,
        joins=[Join(slot, token_ids, max_model_len, 0, params) for slot in slots],
        block_slots=[slot for slot in slots for _ in range(num_blocks)],
        block_indexes=list(range(num_blocks)) * max_num_seqs,
        block_ids=[0] * (num_blocks * max_num_seqs),
    )
