"""The compiled library, and the kernels of one instruction set in it."""

import ctypes
import weakref
from ctypes import c_char_p, c_int, c_int64, c_void_p
from functools import cache

import torch

from model.errors import UnsupportedModel
from model.kernels.cpu.build import LIBRARY, is_current
from model.kernels.cpu.pages import Pages

# What each function takes, and gives: see dispatch.cpp, context.cpp and layers.cpp.
_FUNCTIONS = {
    "open": ((c_char_p, c_int), c_void_p),
    "close": ((c_void_p,), None),
    "level": ((c_void_p,), c_char_p),
    "linear": ((c_void_p, c_void_p, c_void_p, c_int64, c_void_p), None),
    "embed": ((c_void_p, c_void_p, c_void_p, c_int64, c_void_p), None),
    "attention": ((c_void_p,) * 6, None),
    "layers": ((c_void_p, c_void_p, c_void_p, c_int64, *(c_void_p,) * 6), None),
    "choose": ((c_void_p,) * 4, None),
    "forbid": ((c_void_p,) * 4, None),
    "pack": ((c_void_p, c_void_p), None),
}


# torch's name of the instruction set that it uses: the best one here, or less where ATEN_CPU_CAPABILITY says so.
_AS_TORCH = {"DEFAULT": "plain", "AVX2": "avx2"}


def unavailable() -> str | None:
    """None where the kernels can be used, else the reason with its remedy."""
    if not LIBRARY.exists():
        return "the CPU kernels are not built (python -m model.kernels.cpu.build, needs g++ or clang++)"
    if not is_current():
        return "the CPU kernels were built from other sources (python -m model.kernels.cpu.build)"
    return None


class CpuKernels:
    """The kernels of one instruction set, with a pool of threads of their own. For use by one thread at a time."""

    def __init__(self, num_threads: int, level: str | None = None) -> None:
        """Opens the library for `level`, or else for the best instruction set that torch uses here.

        Raises UnsupportedModel where the library is missing or this processor lacks the level.
        """
        reason = unavailable()
        if reason is not None:
            raise UnsupportedModel(reason)
        level = level or _AS_TORCH.get(torch.backends.cpu.get_cpu_capability())
        address = library().nexttoken_open(level.encode() if level else None, num_threads)
        if address is None:
            raise UnsupportedModel(f"this processor has no {level}")
        self.address: int = address
        """How operators are told which kernels to use."""
        self.level: str = library().nexttoken_level(address).decode()
        """Name of the instruction set: avx512bf16, avx512, avx2 or plain."""
        self.pages = Pages()
        """Where packed weights are kept."""
        self._finalizer = weakref.finalize(self, library().nexttoken_close, address)


@cache
def library() -> ctypes.CDLL:
    """The library, with the types of its functions."""
    opened = ctypes.CDLL(str(LIBRARY))
    for name, (arguments, result) in _FUNCTIONS.items():
        function = getattr(opened, f"nexttoken_{name}")
        function.argtypes, function.restype = arguments, result
    return opened
