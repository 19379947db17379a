"""`nexttoken bench engine`: the model's steps without HTTP, beside what this device can do at best."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from model.batch import Batch, Join, SamplingParams
from model.build import build_runner
from model.config import ModelConfig
from model.description import ModelInfo, RunnerOptions
from model.errors import NotEnoughMemory
from model.families.registry import config_from_directory
from model.kernels.cpu.layout import WeightFormat
from model.runner import ModelRunner
from model.threads import available_cores
from server.bench.limits import Limits, device_limits
from server.bench.table import table
from server.command import BadUse

DECODE_STEPS = 32
_PREFILL_ROUNDS = 3
_PROFILED_STEPS = 4
_PARAMS = SamplingParams(max_tokens=DECODE_STEPS, temperature=0, ignore_eos=True)


@dataclass(frozen=True, slots=True)
class Case:
    """So many sequences with so long a context."""

    batch: int
    context: int


def bench_engine(
    options: RunnerOptions, batches: Sequence[int], contexts: Sequence[int], profile: Path | None
) -> dict[str, Any]:
    """Measure each batch with each context, print a line for each. Raises BadUse and ModelError.

    `profile`: where a trace of some steps of the last case goes.
    """
    config = config_from_directory(Path(options.model_dir))
    longest = max(contexts) + DECODE_STEPS
    if longest > (limit := config.max_model_len):
        raise BadUse(f"--context {max(contexts)} and {DECODE_STEPS} steps are more than the model's {limit} tokens")
    options = msgspec.structs.replace(options, max_num_seqs=max(batches), max_model_len=longest)
    runner, info = build_runner(options, lambda phase, fraction: None)
    num_threads = options.num_threads or available_cores()
    limits = device_limits(torch.device(info.device), num_threads, _weight_format(info))
    print(_head(info, limits))
    work = Work(config, info)
    results = [_measure(Steps(runner, info, case), case, work, limits) for case in _cases(info, batches, contexts)]
    print(table(list(_COLUMNS.values()), [[result[name] for name in _COLUMNS] for result in results]))
    if profile is not None:
        case = Case(batches[-1], contexts[-1])
        _profile(Steps(runner, info, case), case, profile)
    return {"model": info, "limits": asdict(limits), "cases": results}


_COLUMNS = {
    "batch": "batch",
    "context": "context",
    "prefill_tokens_per_s": "prefill tokens/s",
    "prefill_mfu": "MFU %",
    "decode_tokens_per_s": "decode tokens/s",
    "decode_step_ms": "ms/step",
    "decode_mbu": "MBU %",
    "decode_mfu": "MFU %",
}


class Work:
    """What a step must read and compute, from the model's shape alone."""

    def __init__(self, config: ModelConfig, info: ModelInfo) -> None:
        embedding = config.vocab_size * config.hidden_size
        self._config = config
        self._head = embedding
        self._layers = info.num_parameters - embedding * (1 if config.tie_embeddings else 2)
        # Of an embedding that is not the head as well, only the rows of the step's tokens are read.
        share_read = 1.0 if config.tie_embeddings else 1 - embedding / info.num_parameters
        self._weights_bytes = info.weights_bytes * share_read
        self._row_bytes = info.weights_bytes / info.num_parameters * config.hidden_size
        self._token_bytes = info.kv_cache_bytes / (info.num_blocks * info.block_size)

    def decode_bytes(self, case: Case) -> float:
        """All weights once, a row of the embedding and the visible keys and values for each sequence."""
        return self._weights_bytes + case.batch * (self._row_bytes + self._visible(case.context) * self._token_bytes)

    def decode_flops(self, case: Case) -> float:
        """Two for each weight and each sequence, and attention."""
        attention = self._attention_flops(self._visible(case.context))
        return case.batch * (2 * (self._layers + self._head) + attention)

    def prefill_flops(self, context: int) -> float:
        """Of one prompt: logits are made for its last token alone."""
        num_visible = sum(self._visible(position) for position in range(1, context + 1))
        return 2 * context * self._layers + 2 * self._head + self._attention_flops(num_visible)

    def _visible(self, context: int) -> int:
        return min(context, self._config.sliding_window or context)

    def _attention_flops(self, num_keys: int) -> float:
        """Each key is multiplied with a query, and its value with the weight that came of that."""
        return 4.0 * self._config.num_layers * self._config.q_size * num_keys


class Steps:
    """The steps of one case."""

    def __init__(self, runner: ModelRunner, info: ModelInfo, case: Case) -> None:
        self._runner = runner
        self._case = case
        self._chunk = info.max_step_tokens
        self._num_blocks = -(-(case.context + DECODE_STEPS) // info.block_size)
        self._num_decoded = 0

    def prefill(self, slot: int) -> None:
        """Compute one sequence's prompt, in as many steps as a server without other work takes."""
        context = self._case.context
        for start in range(0, context, self._chunk):
            count = min(self._chunk, context - start)
            batch = Batch([slot], [start], [count], [start + count == context])
            if start == 0:
                # Each has its own tokens and blocks.
                token_ids = [(slot * 7919 + i * 31) % 251 for i in range(context)]
                batch.joins = [Join(slot, token_ids, context, 0, _PARAMS)]
                batch.block_slots = [slot] * self._num_blocks
                batch.block_indexes = list(range(self._num_blocks))
                batch.block_ids = [slot * self._num_blocks + i for i in range(self._num_blocks)]
            self._runner.run(batch)

    def decode(self) -> None:
        """The next token of every sequence."""
        num_seqs = self._case.batch
        computed = self._case.context + self._num_decoded
        self._runner.run(Batch(list(range(num_seqs)), [computed] * num_seqs, [1] * num_seqs, [True] * num_seqs))
        self._num_decoded += 1


def _measure(steps: Steps, case: Case, work: Work, limits: Limits) -> dict[str, Any]:
    for slot in range(case.batch):
        steps.prefill(slot)
    prefill_s = _median_time(lambda: steps.prefill(0), _PREFILL_ROUNDS)
    decode_s = _median_time(steps.decode, DECODE_STEPS - 1)
    return {
        "batch": case.batch,
        "context": case.context,
        "prefill_tokens_per_s": case.context / prefill_s,
        "prefill_mfu": 100 * work.prefill_flops(case.context) / prefill_s / limits.flops_per_s,
        "decode_tokens_per_s": case.batch / decode_s,
        "decode_step_ms": decode_s * 1e3,
        "decode_mbu": 100 * work.decode_bytes(case) / decode_s / limits.read_bytes_per_s,
        "decode_mfu": 100 * work.decode_flops(case) / decode_s / limits.flops_per_s,
    }


def _median_time(step: Callable[[], None], count: int) -> float:
    """Seconds of a step, each of which ends with what the host reads of it. The first is for warming up."""
    times = []
    for _ in range(count + 1):
        started = time.perf_counter()
        step()
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


def _cases(info: ModelInfo, batches: Sequence[int], contexts: Sequence[int]) -> list[Case]:
    cases = [Case(batch, context) for context in contexts for batch in batches]
    for case in cases:
        needed = case.batch * -(-(case.context + DECODE_STEPS) // info.block_size)
        if needed > info.num_blocks:
            raise NotEnoughMemory(
                f"batch {case.batch} with context {case.context} needs {needed} blocks, and the KV cache has "
                f"{info.num_blocks}; raise --kv-cache-memory-bytes"
            )
    return cases


def _profile(steps: Steps, case: Case, path: Path) -> None:
    """A trace of one prefill and some decode steps, for chrome://tracing or ui.perfetto.dev."""
    for slot in range(case.batch):
        steps.prefill(slot)
    # With Python's functions: our CPU kernels are no torch operators, so only the calls of them show.
    with torch.profiler.profile(with_stack=True) as profiler:
        steps.prefill(0)
        for _ in range(_PROFILED_STEPS):
            steps.decode()
    profiler.export_chrome_trace(str(path))


def _weight_format(info: ModelInfo) -> WeightFormat:
    if info.quantization != "none":
        return info.quantization
    return "float32" if info.dtype == "float32" else "bfloat16"


def _head(info: ModelInfo, limits: Limits) -> str:
    weights = info.quantization if info.quantization != "none" else info.dtype
    return (
        f"{info.architecture}, {info.num_parameters / 1e6:,.0f} M parameters in {weights} "
        f"({info.weights_bytes / 1e6:,.0f} MB) on {info.device}, {info.kernels}\n"
        f"limits here: {limits.read_bytes_per_s / 1e9:.1f} GB/s read, "
        f"{limits.flops_per_s / 1e9:,.0f} GFLOP/s of products ({limits.product})\n"
    )
