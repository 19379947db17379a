"""When a device does what it is told: waiting for it, and recording what it is told to tell it again.

All that knows of events and graphs is here, so that the rest runs on a CPU, and in tests without any device.
"""

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Stream(Protocol):
    """The order in which a device computes what is enqueued."""

    is_asynchronous: bool
    """Whether the host goes on before the device has computed what it was told."""

    def mark(self) -> Callable[[], None]:
        """What is returned waits, when called, until all that is enqueued by now is done."""

    def record(self, compute: Callable[[], None]) -> Callable[[], None]:
        """Run `compute`, which only enqueues. What is returned enqueues the same again, on the same memory."""

    def free_bytes(self) -> int:
        """Memory that the device has left."""


class HostStream:
    """The CPU, which has computed everything by the time it is asked."""

    is_asynchronous = False

    def mark(self) -> Callable[[], None]:
        """See Stream."""
        return _nothing

    def record(self, compute: Callable[[], None]) -> Callable[[], None]:
        """See Stream."""
        compute()
        return compute

    def free_bytes(self) -> int:
        """See Stream. Nothing is ever kept for a recording here."""
        return 0


class CudaStream:
    """The current stream of a CUDA device, with its graphs in one pool of memory, since only one runs at a time."""

    is_asynchronous = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # One for all recordings: libraries keep a workspace of some MiB for each stream that they were called on.
        self._side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool: Any = None  # torch keeps its type to itself

    def mark(self) -> Callable[[], None]:
        """See Stream."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        return event.synchronize

    def record(self, compute: Callable[[], None]) -> Callable[[], None]:
        """See Stream."""
        # Once without recording: kernels are compiled and libraries loaded, neither of which a graph may hold.
        torch.cuda.synchronize(self._device)
        with torch.cuda.stream(self._side):
            compute()
        torch.cuda.synchronize(self._device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._side):
            compute()
        self._pool = graph.pool()
        return graph.replay

    def free_bytes(self) -> int:
        """See Stream."""
        torch.cuda.synchronize(self._device)
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info(self._device)[0]


def stream_of(device: torch.device) -> Stream:
    """The stream of a device that this process computes on."""
    return CudaStream(device) if device.type == "cuda" else HostStream()


def to_device(array: NDArray[np.generic], device: torch.device) -> Tensor:
    """A copy on the device, for all that it is told from now on.

    By way of pinned memory: for a copy from other memory the driver may wait until the device has done all that it was
    told before.
    """
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        tensor = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor)
    return tensor.to(device, non_blocking=True)


def to_host(tensor: Tensor) -> Tensor:
    """A copy on the host, which holds once the device has done all that it was told by now.

    Its memory is pinned when it comes from a GPU, so that nobody waits for the copy before.
    """
    return tensor.to("cpu", non_blocking=True)


def _nothing() -> None:
    """There is nothing to wait for."""
