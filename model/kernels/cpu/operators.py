"""The kernels as torch operators: a profile shows them by name with their shapes, and a trace passes through them.

Numbers that a step brings are tensors. What lasts as long as the model (packed weights, where a layer's cache is, the
kernels' threads) and the columns of a step's rows are structs of kernels.h, and an operator is told their addresses,
which the caller keeps valid. `kernels` is CpuKernels.address.

An operator's way through torch takes 1.6 us, a call through ctypes 0.2 (torch 2.13): so all layers are one.
"""

from collections.abc import Callable
from ctypes import addressof
from typing import Any

import torch
from torch import Tensor

from model.kernels.cpu.library import library
from model.kernels.cpu.structs import FORMATS, PackingArguments, ProjectionsArguments

# T tokens in the step, H query heads, K kv heads, D head size, E hidden size, I inputs, O outputs, R rows,
# V vocabulary, P panels of 16 outputs, L lines, G groups of 32 inputs. Floats are float32 and everything is contiguous.


def _operator(schema: str, shape: Callable[..., Tensor | None]) -> Callable[[Callable[..., Tensor | None]], Any]:
    """Makes an operator of a function that computes on the CPU; `shape` says what it returns, and computes nothing."""

    def register(compute: Callable[..., Tensor | None]) -> Any:
        name = f"nexttoken::{compute.__name__}"
        torch.library.define(name, schema)
        torch.library.impl(name, "CPU", compute)
        torch.library.register_fake(name, shape)
        return getattr(torch.ops.nexttoken, compute.__name__).default

    return register


def _nothing(*_: object) -> None:
    """What an operator returns that writes into its arguments."""


@_operator(
    "(Tensor x, int kernels, int linear, int num_outputs) -> Tensor",
    lambda x, kernels, linear, num_outputs: x.new_empty(x.shape[0], num_outputs, dtype=torch.float32),
)
def linear(x_TI: Tensor, kernels: int, linear: int, num_outputs: int) -> Tensor:
    """y_TO = epilogue(norm(x) W^T + bias), of the width that the epilogue makes; no residual."""
    y_TO = torch.empty(x_TI.shape[0], num_outputs, dtype=torch.float32)
    library().nexttoken_linear(kernels, linear, _floats(x_TI), x_TI.shape[0], y_TO.data_ptr())
    return y_TO


@_operator(
    "(Tensor token_ids, int kernels, int linear, int size) -> Tensor",
    lambda token_ids, kernels, linear, size: token_ids.new_empty(token_ids.shape[0], size, dtype=torch.float32),
)
def embed(token_ids_T: Tensor, kernels: int, linear: int, size: int) -> Tensor:
    """x_TE, the rows of packed weights that have these numbers (int64), NaN for a number that none has."""
    x_TE = torch.empty(token_ids_T.shape[0], size, dtype=torch.float32)
    library().nexttoken_embed(kernels, linear, _pointer(token_ids_T), token_ids_T.shape[0], x_TE.data_ptr())
    return x_TE


@_operator(
    "(Tensor q, Tensor k, Tensor v, Tensor write, Tensor(a!) cache, int kernels, int heads, int rows) -> Tensor",
    lambda q, k, v, write, cache, kernels, heads, rows: torch.empty_like(q),
)
def attend(
    q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, write_T: Tensor, cache: Tensor, kernels: int, heads: int, rows: int
) -> Tensor:
    """Puts keys and values, turned already, into the cache at the positions `write` (int64), then attends: o_THD."""
    o_THD = torch.empty_like(q_THD)
    projections = ProjectionsArguments(
        queries=_floats(q_THD),
        keys=_floats(k_TKD),
        values=_floats(v_TKD),
        query_stride=q_THD[0].numel(),
        key_stride=k_TKD[0].numel(),
        value_stride=v_TKD[0].numel(),
        write=_pointer(write_T),
    )
    library().nexttoken_attention(kernels, heads, rows, addressof(projections), cache.data_ptr(), o_THD.data_ptr())
    return o_THD


@_operator(
    "(Tensor(a!) x, Tensor cos, Tensor sin, Tensor write, Tensor(b!) cache, "
    "int kernels, int layers, int heads, int num_layers, int rows) -> ()",
    _nothing,
)
def layers(
    x_TE: Tensor,
    cos_T1D: Tensor,
    sin_T1D: Tensor,
    write_T: Tensor,
    cache: Tensor,
    kernels: int,
    layers: int,
    heads: int,
    num_layers: int,
    rows: int,
) -> None:
    """Takes x through all layers, and puts their keys and values into the cache at the positions `write` (int64)."""
    tensors = _floats(cos_T1D), _floats(sin_T1D), _pointer(write_T), cache.data_ptr(), _floats(x_TE)
    library().nexttoken_layers(kernels, layers, heads, num_layers, rows, *tensors)


@_operator(
    "(Tensor logits, int kernels, int choices) -> Tensor",
    lambda logits, kernels, choices: logits.new_empty(logits.shape[0], dtype=torch.int64),
)
def choose(logits_RV: Tensor, kernels: int, choices: int) -> Tensor:
    """Draws a token for each row: token_ids_R, int64."""
    token_ids_R = torch.empty(logits_RV.shape[0], dtype=torch.int64)
    library().nexttoken_choose(kernels, choices, _floats(logits_RV), token_ids_R.data_ptr())
    return token_ids_R


@_operator("(Tensor(a!) logits, Tensor table, int kernels, int masks) -> ()", _nothing)
def forbid(logits_RV: Tensor, table: Tensor, kernels: int, masks: int) -> None:
    """Makes the tokens impossible that the masks don't allow. `table` [256, 8]: what a byte adds to eight logits."""
    library().nexttoken_forbid(kernels, masks, _floats(table), _floats(logits_RV))


@_operator("(Tensor weight, Tensor rows, Tensor(a!) lines, Tensor(b!)? scale, str format, int kernels) -> ()", _nothing)
def pack(
    weight_OI: Tensor, row_O: Tensor, lines_PL64: Tensor, scale_PG16: Tensor | None, format: str, kernels: int
) -> None:
    """Writes a matrix, float32 or bfloat16, into lines and scales. `row`: int64, see layout.py."""
    packing = PackingArguments(
        weight=_pointer(weight_OI),
        stored=FORMATS[str(weight_OI.dtype).removeprefix("torch.")],
        format=FORMATS[format],
        rows=_pointer(row_O),
        num_panels=len(lines_PL64),
        num_inputs=weight_OI.shape[1],
        lines=lines_PL64.data_ptr(),
        scale=None if scale_PG16 is None else scale_PG16.data_ptr(),
    )
    library().nexttoken_pack(kernels, addressof(packing))


def _pointer(tensor: Tensor) -> int:
    assert tensor.is_contiguous()
    return tensor.data_ptr()


def _floats(tensor: Tensor) -> int:
    assert tensor.dtype == torch.float32
    return _pointer(tensor)
