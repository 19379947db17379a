"""The instruction sets this processor has, for tests to run on each."""

from functools import cache

import pytest

from model.errors import UnsupportedModel
from model.kernels.cpu.build import levels
from model.kernels.cpu.library import CpuKernels, unavailable

needs_kernels = pytest.mark.skipif(unavailable() is not None, reason=str(unavailable()))


@cache
def kernels(level: str, num_threads: int = 1) -> CpuKernels:
    """The kernels of a level; skips the test where the processor lacks it."""
    try:
        return CpuKernels(num_threads, level)
    except UnsupportedModel as error:
        pytest.skip(str(error))


each_level = pytest.mark.parametrize("level", levels())
