"""`nexttoken bench engine`: the model's steps without HTTP, beside what this device can do at best."""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import msgspec
import torch

from model.build import build_runner
from model.description import ModelInfo, RunnerOptions
from model.errors import NotEnoughMemory
from model.families.registry import config_from_directory
from model.kernels.cpu.layout import WeightFormat
from model.speed.limits import Limits, device_limits
from model.speed.steps import DECODE_STEPS, Case, Steps
from model.speed.work import Work
from model.threads import available_cores
from server.bench.table import table
from server.command import BadUse

_PREFILL_ROUNDS = 3
_PROFILED_STEPS = 4


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
    with torch.profiler.profile(record_shapes=True) as profiler:
        with torch.profiler.record_function("prefill"):
            steps.prefill(0)
        for _ in range(_PROFILED_STEPS):
            with torch.profiler.record_function("decode"):
                steps.decode()
    profiler.export_chrome_trace(str(path))
    print(f"\n{path}: a trace of a prefill and {_PROFILED_STEPS} decode steps, for ui.perfetto.dev")


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
