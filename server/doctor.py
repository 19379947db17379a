"""`nexttoken doctor`: what this machine has, what of it a server would use, and whether it computes what it should."""

import os
import platform
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
import torch

from model.build import build_runner
from model.description import Check, ModelInfo, RunnerOptions
from model.errors import ModelError, NotEnoughMemory
from model.families.registry import config_from_directory
from model.kernels.cpu.library import unavailable
from model.memory import available_memory
from model.runner import ModelRunner
from model.selfcheck import Probe, agreement
from model.speed.decode import decode_speed
from model.threads import available_cores, container_quota
from server.version import VERSION

# Smaller weights stay in a processor's caches, so what a step reads says nothing about the memory.
_CACHED_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of the report."""

    what: str
    text: str
    is_fault: bool = False
    """Whether something does not work, or is not used, that could be."""


def doctor(options: RunnerOptions) -> int:
    """Examine this machine with a model, print what was found. Returns 1 if anything is amiss, else 0."""
    findings = []
    for finding in _findings(options):
        findings.append(finding)
        print(f"{'!' if finding.is_fault else ' '} {finding.what:<16}{finding.text}", flush=True)
    num_faults = sum(finding.is_fault for finding in findings)
    print("\nall is well" if num_faults == 0 else f"\nto be looked at: {num_faults} of these lines, marked with !")
    return int(num_faults > 0)


def _findings(options: RunnerOptions) -> Iterator[Finding]:
    yield from _machine()
    try:
        yield from _with_model(options)
    except ModelError as error:
        yield Finding("model", " ".join(str(error).split()), is_fault=True)


def _machine(proc_root: Path = Path("/proc")) -> Iterator[Finding]:
    yield Finding("nexttoken", f"{VERSION}, Python {platform.python_version()} on {sys.platform}")
    yield Finding("torch", f"{torch.__version__}; triton {_version('triton') or 'is not installed'}")
    yield Finding("processor", _processor_name(proc_root))
    quota = container_quota()
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    limit = "no container limit" if quota is None else f"the container may use {quota:g}"
    yield Finding("cores", f"{available_cores()} to use: {os.cpu_count()} there, {allowed} by affinity, {limit}")
    yield Finding("memory", f"{available_memory() / 2**30:.1f} GiB free, the container's limit counted")
    for index in range(torch.cuda.device_count()):
        yield _gpu(index, torch.cuda.get_device_properties(index), _driver(proc_root))


def _gpu(index: int, properties: "torch.cuda._CudaDeviceProperties", driver: str) -> Finding:
    return Finding(
        f"cuda:{index}",
        f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, compute capability "
        f"{properties.major}.{properties.minor}; driver {driver}, CUDA {torch.version.cuda} in torch",
    )


def _with_model(options: RunnerOptions) -> Iterator[Finding]:
    """Raises ModelError."""
    runner, info = build_runner(options, lambda phase, fraction: None)
    yield Finding(
        "model",
        f"{info.architecture}, {info.num_parameters / 1e6:,.1f} M parameters ({info.weights_bytes / 2**20:,.1f} MiB) "
        f"in {info.dtype if info.quantization == 'none' else info.quantization} on {info.device}",
    )
    is_missed = options.kernels == "auto" and info.device == "cpu" and unavailable() is not None
    yield Finding("computes", f"{info.kernels}; {info.attention} attention", is_fault=is_missed)
    if info.device == "cpu":
        yield Finding("threads", f"{info.num_threads}")
    if info.device == "cpu" and info.kernels.startswith("own"):
        yield _own_kernels(options, runner, info)
    for check in info.checks:
        yield _finding(check)
    yield _speed(options, runner, info)


def _own_kernels(options: RunnerOptions, runner: ModelRunner, info: ModelInfo) -> Finding:
    """The model's own kernels against plain torch in float32, with weights as they were before any rounding."""
    plain = msgspec.structs.replace(options, kernels="torch", dtype="float32", quantization="none")
    probe = Probe(
        vocab_size=info.vocab_size,
        max_model_len=info.max_model_len,
        max_num_seqs=info.max_num_seqs,
        block_size=info.block_size,
    )
    try:
        reference, _ = build_runner(plain, lambda phase, fraction: None)
    except NotEnoughMemory as error:
        return Finding("own kernels", f"not compared with torch in float32: {' '.join(str(error).split())}")
    check = agreement("own kernels", info.dtype, probe.logprobs(reference), lambda: probe.logprobs(runner))
    if info.quantization != "none":
        return Finding(check.part, f"{check.note}, for the most part by rounding to {info.quantization}: not judged")
    return _finding(check)


def _speed(options: RunnerOptions, runner: ModelRunner, info: ModelInfo) -> Finding:
    config = config_from_directory(Path(options.model_dir))
    speed = decode_speed(runner, info, config, options.num_threads or available_cores())
    if speed is None:
        return Finding("decode", "not measured: the context is too short, or no GiB is left to read")
    text = (
        f"{speed.step_s * 1e3:.2f} ms a token, {speed.step_bytes / speed.step_s / 1e9:.1f} of the "
        f"{speed.read_bytes_per_s / 1e9:.1f} GB/s that can be read: MBU {speed.mbu:.0%}"
    )
    if info.weights_bytes < _CACHED_BYTES:
        text += " (which says little of so small a model: it stays in the caches)"
    return Finding("decode", text)


def _finding(check: Check) -> Finding:
    return Finding(
        check.part, f"{'proved' if check.is_used else 'not proved'}: {check.note}", is_fault=not check.is_used
    )


def _processor_name(proc_root: Path) -> str:
    for line in _read(proc_root / "cpuinfo").splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return f"{value.strip()}, {platform.machine()}"
    return platform.processor() or platform.machine()


def _driver(proc_root: Path) -> str:
    """The version in "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  ..."."""
    words = _read(proc_root / "driver" / "nvidia" / "version").partition("\n")[0].split()
    return next((word for word in words if word[0].isdigit()), "unknown")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
