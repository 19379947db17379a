"""How near one sequence's decode steps come to the memory's limit."""

import time
from dataclasses import dataclass

import torch

from model.config import ModelConfig
from model.description import ModelInfo
from model.runner import ModelRunner
from model.speed.limits import read_rate
from model.speed.steps import DECODE_STEPS, Case, Steps
from model.speed.work import Work

CONTEXT = 128


@dataclass(frozen=True, slots=True)
class DecodeSpeed:
    """Of the fastest step, beside what the device reads at best."""

    step_s: float
    step_bytes: float
    """What a step must read: all weights once, and the sequence's keys and values."""
    read_bytes_per_s: float

    @property
    def mbu(self) -> float:
        """The share of the memory's bandwidth that was used."""
        return self.step_bytes / self.step_s / self.read_bytes_per_s


def decode_speed(runner: ModelRunner, info: ModelInfo, config: ModelConfig, num_threads: int) -> DecodeSpeed | None:
    """Measure for about a second; None for a model whose context is too short, or where no GiB is left to read.

    `num_threads` read where the device is a CPU. Uses slot 0 and the first blocks, which must not be in use.
    """
    case = Case(1, min(CONTEXT, info.max_model_len - DECODE_STEPS))
    if case.context < 1:
        return None
    steps = Steps(runner, info, case)
    steps.prefill(0)
    step_s = min(_seconds(steps) for _ in range(DECODE_STEPS))
    try:
        read_bytes_per_s = read_rate(torch.device(info.device), num_threads)
    except torch.OutOfMemoryError:
        return None
    return DecodeSpeed(step_s, Work(config, info).decode_bytes(case), read_bytes_per_s)


def _seconds(steps: Steps) -> float:
    started = time.perf_counter()
    steps.decode()
    return time.perf_counter() - started
