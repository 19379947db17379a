"""What this device can do at best: bytes read and products computed a second, measured here and now."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from model.kernels.cpu.layers import CpuLinear
from model.kernels.cpu.layout import WeightFormat, pack
from model.kernels.cpu.library import CpuKernels, unavailable

# Far larger than the caches of any processor.
_READ_BYTES = 1 << 30
_PROBE_S = 0.5
# Of a product with as many rows: enough work for each weight that reading it does not count.
_ROWS, _INPUTS, _OUTPUTS = 1024, 2048, 8192


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one device, with all the threads that may be used."""

    read_bytes_per_s: float
    flops_per_s: float
    product: str
    """What computed them."""


def read_rate(device: torch.device, num_threads: int) -> float:
    """Bytes that the device reads a second, measured with the largest of a GiB of whole numbers."""
    with _threads(num_threads), torch.inference_mode():
        numbers = torch.ones(_READ_BYTES // 8, dtype=torch.int64, device=device)
        return _READ_BYTES / _best_time(numbers.amax, device)


def device_limits(device: torch.device, num_threads: int, weight_format: WeightFormat) -> Limits:
    """Measure for some seconds.

    Products: the best of torch's in float32 and bfloat16 and, on a CPU,
    of our own with weights of this format.
    """
    read_bytes_per_s = read_rate(device, num_threads)
    with _threads(num_threads), torch.inference_mode():
        seconds = {name: _best_time(product, device) for name, product in _products(device, num_threads, weight_format)}
    fastest = min(seconds, key=lambda name: seconds[name])
    return Limits(read_bytes_per_s, 2 * _ROWS * _INPUTS * _OUTPUTS / seconds[fastest], fastest)


def _synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _products(
    device: torch.device, num_threads: int, weight_format: WeightFormat
) -> Iterator[tuple[str, Callable[[], object]]]:
    x, weight = torch.randn(_ROWS, _INPUTS, device=device), torch.randn(_OUTPUTS, _INPUTS, device=device)
    for dtype in (torch.float32, torch.bfloat16):
        yield f"torch, {str(dtype).removeprefix('torch.')}", partial(torch.mm, x.to(dtype), weight.to(dtype).T)
    if device.type == "cpu" and unavailable() is None:
        kernels = CpuKernels(num_threads)
        linear = CpuLinear(kernels, pack(kernels, weight, weight_format))
        yield f"own {kernels.level}, {weight_format}", partial(linear, x)


def _best_time(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest call within a while."""
    best = float("inf")
    ends_at = time.perf_counter() + _PROBE_S
    num_calls = 0
    while num_calls < 3 or time.perf_counter() < ends_at:
        started = time.perf_counter()
        function()
        _synchronize(device)
        best = min(best, time.perf_counter() - started)
        num_calls += 1
    return best


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
