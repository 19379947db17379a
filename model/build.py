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
from model.cache_size import GRAPH_BYTES, largest_batch, num_blocks_for
from model.choices import Choices, choose
from model.decoder import Decoder
from model.description import Check, DraftInfo, ModelInfo, RunnerOptions
from model.draft import draft_config
from model.dtype import name_of
from model.kernels.cpu.layout import WeightFormat
from model.kernels.cpu.library import CpuKernels
from model.kernels.cpu.packing import Packer, packed_bytes
from model.kernels.cpu.sampler import CpuSampler
from model.kernels.triton.launches import Card, attention_launches
from model.kv_cache import KVCache
from model.kv_cache import bytes_per_block as torch_bytes_per_block
from model.loader import load_weights
from model.runner import ModelRunner
from model.sampler import Sampler
from model.selfcheck import LENGTHS, LONG, Probe, check_execution
from model.threads import available_cores
from model.transformer import Transformer

# Weights that one core's cache holds are read faster than several threads agree who reads what: with 2 M parameters one
# thread was as fast as two on an idle machine, and ten times as fast where another program wanted a core as well.
ONE_THREAD_BYTES = 16 * 2**20
Progress = Callable[[str, float], None]
"""Told the phase of the start in words, and how far it is (0 to 1)."""


@dataclass(slots=True, frozen=True)
class _Loaded:
    """A model with its weights."""

    model: Transformer
    chosen: Choices
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
    chosen = choose(options)
    draft_options = _draft_options(options, chosen)  # refuses before minutes of loading
    loaded = _load(options, chosen, progress)
    draft = None
    if draft_options is not None:
        draft = _load(draft_options, choose(draft_options), progress, beside=loaded)
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
            draft=None if draft is None else Decoder(draft.model, draft.backend(num_blocks + 1, options.block_size)),
        )

    progress("warming up", 0.0)
    block_bytes = sum(one.block_bytes(options.block_size) for one in (loaded, draft) if one is not None)
    num_blocks = num_blocks_for(options, chosen, block_bytes, runner_with)
    runner = runner_with(num_blocks)
    recording = functools.partial(progress, "recording decode steps")
    checks = check_execution(
        runner,
        _probe(options, chosen),
        name_of(chosen.dtype),
        lambda: runner.record_graphs(num_blocks, GRAPH_BYTES, recording),
        lambda: runner.record_draft_graphs(num_blocks, GRAPH_BYTES, recording),
    )
    runner.run(largest_batch(1, 1, 1, options.block_size))
    checks = [*loaded.checks, *([] if draft is None else draft.checks), *sampling_checks, *checks]
    return runner, _describe(options, replace(loaded, chosen=chosen, checks=checks), draft, num_blocks, num_threads)


def _describe(
    options: RunnerOptions, loaded: _Loaded, draft: _Loaded | None, num_blocks: int, num_threads: int
) -> ModelInfo:
    chosen = loaded.chosen
    return ModelInfo(
        architecture=chosen.config.architecture,
        num_parameters=loaded.num_parameters,
        dtype=name_of(chosen.dtype),
        device=str(chosen.device),
        attention="torch" if chosen.against_kernels else "paged",
        kernels=_computing(loaded.kernels, chosen),
        num_threads=num_threads,
        checks=loaded.checks,
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
        kv_cache_bytes=num_blocks * loaded.block_bytes(options.block_size),
        draft=None if draft is None else _draft_info(draft, num_blocks * draft.block_bytes(options.block_size)),
    )


def _draft_info(draft: _Loaded, kv_cache_bytes: int) -> DraftInfo:
    return DraftInfo(
        architecture=draft.chosen.config.architecture,
        num_parameters=draft.num_parameters,
        weights_bytes=draft.weights_bytes,
        kv_cache_bytes=kv_cache_bytes,
    )


def _sampler(kernels: CpuKernels | None, chosen: Choices, max_num_seqs: int) -> Sampler:
    config = chosen.config
    if kernels is not None:
        return CpuSampler(kernels, max_num_seqs, config.vocab_size, config.eos_token_ids)
    if chosen.has_sampling_kernel:
        from model.kernels.triton.sampler import TritonSampler

        return TritonSampler(max_num_seqs, config.vocab_size, config.eos_token_ids, chosen.device)
    return Sampler(max_num_seqs, config.vocab_size, config.eos_token_ids, chosen.device)


def _draft_options(options: RunnerOptions, chosen: Choices) -> RunnerOptions | None:
    """How the draft model is to be loaded, if there is one: as the model itself is."""
    if options.draft_model_dir is None:
        return None
    draft_config(Path(options.draft_model_dir), chosen.config, chosen.max_model_len)
    return msgspec.structs.replace(
        options, model_dir=options.draft_model_dir, draft_model_dir=None, max_model_len=chosen.max_model_len
    )


def _load(options: RunnerOptions, chosen: Choices, progress: Progress, *, beside: _Loaded | None = None) -> _Loaded:
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
    model: Transformer, options: RunnerOptions, chosen: Choices, progress: Progress
) -> tuple[Choices, list[Check]]:
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


def _with_proved_sampling(chosen: Choices) -> tuple[Choices, list[Check]]:
    """Where the Triton kernels compute, draw with theirs too if it draws what torch does."""
    if chosen.against_kernels or chosen.device.type == "cpu":
        return chosen, []
    from model.kernels.triton.proof import sampling_check

    check = sampling_check(chosen.config.vocab_size, chosen.device)
    return replace(chosen, has_sampling_kernel=check.is_used), [check]


def _backend(kernels: CpuKernels | None, chosen: Choices, num_blocks: int, block_size: int) -> AttentionBackend[Any]:
    if kernels is not None:
        return CpuAttention(kernels, chosen.config, num_blocks, block_size, chosen.dtype)
    cache = KVCache(chosen.config, num_blocks, block_size, chosen.dtype, chosen.device, stored=chosen.cache_dtype)
    if chosen.against_kernels:
        return TorchAttention(chosen.config, cache)
    from model.attention.triton import TritonAttention

    card = Card.of(chosen.device)
    return TritonAttention(chosen.config, cache, card, attention_launches(chosen.config, card, chosen.cache_dtype))


def _computing(kernels: CpuKernels | None, chosen: Choices) -> str:
    if chosen.against_kernels:
        return f"torch, as {chosen.against_kernels}"
    return "own kernels, triton" if kernels is None else f"own kernels, {kernels.level}"


def _probe(options: RunnerOptions, chosen: Choices) -> Probe:
    return Probe(
        vocab_size=chosen.config.vocab_size,
        max_model_len=chosen.max_model_len,
        max_num_seqs=options.max_num_seqs,
        block_size=options.block_size,
        first=LONG if chosen.device.type == "cuda" else LENGTHS[0],
    )


def _num_threads(model: Transformer) -> int:
    return 1 if _size(model) <= ONE_THREAD_BYTES else available_cores()


def _size(model: Transformer) -> int:
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def _weight_format(options: RunnerOptions, dtype: torch.dtype) -> WeightFormat:
    if options.quantization != "none":
        return options.quantization
    return "float32" if dtype == torch.float32 else "bfloat16"
