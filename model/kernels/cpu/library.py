"""The compiled kernels as Python functions.

Plain ctypes calls, not torch operators: nothing here is differentiated, traced or moved to another device, which is
what operators would be for, and a call of one took 6 us where one through ctypes took 0.2 (torch 2.13).
"""

import ctypes
import weakref
from ctypes import POINTER, Structure, c_char_p, c_float, c_int, c_int32, c_int64, c_void_p

import torch
from torch import Tensor

from model.errors import UnsupportedModel
from model.kernels.cpu.build import LIBRARY, is_current
from model.kernels.cpu.pages import Pages
from model.layers.rope import Rotation

FORMATS = {"float32": 0, "bfloat16": 1, "int8": 2, "int4": 3}
EPILOGUES = {"store": 0, "add": 1, "gated": 2}
ACTIVATIONS = {"silu": 0, "gelu": 1, "gelu_tanh": 2, "relu": 3}


class LinearArguments(Structure):
    """struct Linear of kernels.h."""

    _fields_ = (
        ("weight", c_void_p),
        ("scale", c_void_p),
        ("bias", c_void_p),
        ("norm", c_void_p),
        ("eps", c_float),
        ("num_inputs", c_int32),
        ("num_outputs", c_int32),
        ("format", c_int32),
        ("epilogue", c_int32),
        ("activation", c_int32),
    )


class ChoicesArguments(Structure):
    """struct Choices of kernels.h."""

    _fields_ = (
        ("num_rows", c_int64),
        ("vocab_size", c_int64),
        ("logits", c_void_p),
        ("temperature", c_void_p),
        ("top_k", c_void_p),
        ("top_p", c_void_p),
        ("min_p_gap", c_void_p),
        ("typical_p", c_void_p),
        ("uniform", c_void_p),
        ("token_ids", c_void_p),
    )


class MasksArguments(Structure):
    """struct Masks of kernels.h."""

    _fields_ = (
        ("num_masked", c_int64),
        ("vocab_size", c_int64),
        ("num_bytes", c_int64),
        ("rows", c_void_p),
        ("bits", c_void_p),
        ("added_to", c_void_p),
        ("logits", c_void_p),
    )


class PackingArguments(Structure):
    """struct Packing of kernels.h."""

    _fields_ = (
        ("weight", c_void_p),
        ("stored", c_int32),
        ("format", c_int32),
        ("rows", c_void_p),
        ("num_panels", c_int64),
        ("num_inputs", c_int64),
        ("lines", c_void_p),
        ("scale", c_void_p),
    )


class LayerArguments(Structure):
    """struct Layer of kernels.h."""

    _fields_ = (
        ("qkv", POINTER(LinearArguments)),
        ("output", POINTER(LinearArguments)),
        ("gate_up", POINTER(LinearArguments)),
        ("down", POINTER(LinearArguments)),
    )


class HeadsArguments(Structure):
    """struct Heads of kernels.h."""

    _fields_ = (
        ("keys", c_void_p),
        ("values", c_void_p),
        ("format", c_int32),
        ("num_heads", c_int32),
        ("num_kv_heads", c_int32),
        ("head_dim", c_int32),
        ("block_size", c_int32),
        ("window", c_int32),
    )


class RowsArguments(Structure):
    """struct Rows of kernels.h."""

    _fields_ = (
        ("num_rows", c_int64),
        ("slots", c_void_p),
        ("num_computed", c_void_p),
        ("num_new", c_void_p),
        ("block_tables", c_void_p),
        ("table_stride", c_int64),
        ("num_tokens", c_int64),
        ("write", c_void_p),
    )


class ProjectionsArguments(Structure):
    """struct Projections of kernels.h."""

    _fields_ = (
        ("queries", c_void_p),
        ("keys", c_void_p),
        ("values", c_void_p),
        ("query_stride", c_int64),
        ("key_stride", c_int64),
        ("value_stride", c_int64),
        ("cosines", c_void_p),
        ("sines", c_void_p),
    )


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
        """Opens the library for the best instruction set here, or for `level`.

        Raises UnsupportedModel where the library is missing or this processor lacks the level.
        """
        reason = unavailable()
        if reason is not None:
            raise UnsupportedModel(reason)
        library = _load()
        self._level = library.nexttoken_level(level.encode() if level else None)
        if not self._level:
            raise UnsupportedModel(f"this processor has no {level}")
        self.level = str(library.nexttoken_level_name(self._level).decode())
        """Name of the instruction set: avx512bf16, avx512, avx2 or plain."""
        self.pages = Pages()
        """Where packed weights are kept."""
        self._context = library.nexttoken_open(num_threads)
        self._linear = library.nexttoken_linear
        self._norm = library.nexttoken_norm
        self._attention = library.nexttoken_attention
        self._layers = library.nexttoken_layers
        self._choose = library.nexttoken_choose
        self._forbid = library.nexttoken_forbid
        self._pack = library.nexttoken_pack
        self._finalizer = weakref.finalize(self, library.nexttoken_close, self._context)

    def linear(self, linear: LinearArguments, x_TI: Tensor, y_TO: Tensor) -> None:
        """y = epilogue(norm(x) W^T + bias); both float32 and contiguous, y of the width the epilogue makes."""
        assert x_TI.is_contiguous()
        assert y_TO.is_contiguous()
        self._linear(self._level, self._context, linear, x_TI.data_ptr(), x_TI.shape[0], y_TO.data_ptr())

    def norm(self, weight_E: Tensor, eps: float, x_TE: Tensor) -> Tensor:
        """x / sqrt(mean(x^2) + eps) * weight for each row, all float32."""
        x_TE = x_TE.contiguous()
        y_TE = torch.empty_like(x_TE)
        size = weight_E.shape[0]
        self._norm(
            self._level, self._context, weight_E.data_ptr(), eps, size, x_TE.data_ptr(), x_TE.shape[0], y_TE.data_ptr()
        )
        return y_TE

    def attention(
        self, heads: HeadsArguments, rows: RowsArguments, projections: ProjectionsArguments, o_THD: Tensor
    ) -> None:
        """Turns and stores the step's keys and values, then attends: o is float32 and contiguous."""
        self._attention(self._level, self._context, heads, rows, projections, o_THD.data_ptr())

    def layers(
        self,
        layers: ctypes.Array[LayerArguments],
        heads: ctypes.Array[HeadsArguments],
        rows: RowsArguments,
        rotation: Rotation,
        x_TE: Tensor,
    ) -> None:
        """Takes x, float32 and contiguous, through all layers, and stores their keys and values."""
        assert x_TE.is_contiguous()
        cosines, sines = rotation.cos_T1D.data_ptr(), rotation.sin_T1D.data_ptr()
        self._layers(self._level, self._context, layers, heads, len(layers), rows, cosines, sines, x_TE.data_ptr())

    def choose(self, choices: ChoicesArguments) -> None:
        """Draws a token for each row."""
        self._choose(self._level, self._context, choices)

    def forbid(self, masks: MasksArguments) -> None:
        """Makes the tokens impossible that the masks don't allow."""
        self._forbid(self._level, self._context, masks)

    def pack(self, packing: PackingArguments) -> None:
        """Writes a matrix into lines and scales."""
        self._pack(self._level, self._context, packing)


def _load() -> ctypes.CDLL:
    library = ctypes.CDLL(str(LIBRARY))
    library.nexttoken_open.argtypes = [c_int]
    library.nexttoken_open.restype = c_void_p
    library.nexttoken_close.argtypes = [c_void_p]
    library.nexttoken_close.restype = None
    library.nexttoken_level.argtypes = [c_char_p]
    library.nexttoken_level.restype = c_void_p
    library.nexttoken_level_name.argtypes = [c_void_p]
    library.nexttoken_level_name.restype = c_char_p
    library.nexttoken_linear.argtypes = [c_void_p, c_void_p, POINTER(LinearArguments), c_void_p, c_int64, c_void_p]
    library.nexttoken_linear.restype = None
    library.nexttoken_norm.argtypes = [c_void_p, c_void_p, c_void_p, c_float, c_int64, c_void_p, c_int64, c_void_p]
    library.nexttoken_norm.restype = None
    library.nexttoken_attention.argtypes = [
        c_void_p,
        c_void_p,
        POINTER(HeadsArguments),
        POINTER(RowsArguments),
        POINTER(ProjectionsArguments),
        c_void_p,
    ]
    library.nexttoken_attention.restype = None
    library.nexttoken_layers.argtypes = [
        c_void_p,
        c_void_p,
        POINTER(LayerArguments),
        POINTER(HeadsArguments),
        c_int64,
        POINTER(RowsArguments),
        c_void_p,
        c_void_p,
        c_void_p,
    ]
    library.nexttoken_layers.restype = None
    library.nexttoken_choose.argtypes = [c_void_p, c_void_p, POINTER(ChoicesArguments)]
    library.nexttoken_choose.restype = None
    library.nexttoken_forbid.argtypes = [c_void_p, c_void_p, POINTER(MasksArguments)]
    library.nexttoken_forbid.restype = None
    library.nexttoken_pack.argtypes = [c_void_p, c_void_p, POINTER(PackingArguments)]
    library.nexttoken_pack.restype = None
    return library
