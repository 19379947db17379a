"""How a weight matrix lies in memory for the kernels.

Sixteen outputs make a panel. A panel is a run of 64-byte lines, each with the next few inputs of all sixteen outputs:
`[panel, line, output, input]`. A line has 1 input an output in float32, 2 in bfloat16, 4 in int8 and 8 in int4, so an
output's share of a line is always 32 bits, the lowest of them its first input. Outputs and inputs are padded with
zeros to whole panels and lines (int8 and int4: whole groups).

int8 and int4 follow Q8_0 and Q4_0 of llama.cpp: 32 inputs of an output share a scale, and a weight is scale * number.
The scale is bfloat16: it is rounded before the numbers are chosen, so that they make up for it. Numbers are stored
unsigned, with OFFSET added, as the processors' products of bytes want one side. In a line of int4 the low halves of an
output's four bytes are its first four inputs, the high halves the next four.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from model.kernels.cpu import operators
from model.kernels.cpu.library import CpuKernels

# O outputs, I inputs, P panels of 16 outputs, L lines, G groups of 32 inputs

PANEL = 16
GROUP = 32
LINE_BYTES = 64
OFFSET = {"int8": 128, "int4": 8}
LINE_INPUTS = {"float32": 1, "bfloat16": 2, "int8": 4, "int4": 8}

WeightFormat = Literal["float32", "bfloat16", "int8", "int4"]


@dataclass(frozen=True, slots=True)
class PackedWeight:
    """A matrix [outputs, inputs] in panels."""

    format: WeightFormat
    num_outputs: int
    num_inputs: int
    lines_PL64: Tensor
    """uint8."""
    scale_PG16: Tensor | None
    """bfloat16, for int8 and int4."""

    @property
    def num_bytes(self) -> int:
        """What the matrix takes in memory."""
        return self.lines_PL64.numel() + (0 if self.scale_PG16 is None else 2 * self.scale_PG16.numel())


def pack(
    kernels: CpuKernels, weight_OI: Tensor, weight_format: WeightFormat, row_O: Tensor | None = None
) -> PackedWeight:
    """The matrix in panels, in memory that lasts; rounds or quantises where the format is narrower than its dtype.

    `row_O`: int64, the row of the matrix that each output of the panels is, -1 for zeros; without it, row by row.
    """
    if weight_OI.dtype not in (torch.float32, torch.bfloat16):
        weight_OI = weight_OI.float()
    weight_OI = weight_OI.contiguous()
    num_outputs, num_inputs = weight_OI.shape
    if row_O is None:
        row_O = pad(torch.arange(num_outputs), (0, -num_outputs % PANEL), value=-1)
    assert row_O.dtype == torch.int64
    assert len(row_O) % PANEL == 0
    assert int(row_O.max()) < num_outputs
    num_panels, num_groups = len(row_O) // PANEL, -(-num_inputs // GROUP)
    is_quantized = weight_format in OFFSET
    line_inputs = LINE_INPUTS[weight_format]
    num_lines = num_groups * GROUP // line_inputs if is_quantized else -(-num_inputs // line_inputs)
    lines_PL64 = kernels.pages.take(torch.uint8, num_panels, num_lines, LINE_BYTES)
    scale_PG16 = kernels.pages.take(torch.bfloat16, num_panels, num_groups, PANEL) if is_quantized else None
    operators.pack(weight_OI, row_O, lines_PL64, scale_PG16, weight_format, kernels.address)
    return PackedWeight(weight_format, num_outputs, num_inputs, lines_PL64, scale_PG16)


def padded_bias(bias_O: Tensor | None) -> Tensor | None:
    """A bias with zeros up to the last panel's end."""
    return None if bias_O is None else pad(bias_O, (0, -len(bias_O) % PANEL))


def interleaved(gate_up_O: Tensor) -> Tensor:
    """A bias of gate and up, one after the other, as panels of both in turn: the kernel finishes a gate with its up at
    hand. Each half is padded with zeros to whole panels.
    """
    halves = gate_up_O.view(2, -1)
    return pad(halves, (0, -halves.shape[1] % PANEL)).view(2, -1, PANEL).transpose(0, 1).flatten()


def interleaved_rows(num_outputs: int) -> Tensor:
    """The rows of gate and up in the same order, for `pack`: -1 where there is none."""
    return interleaved(torch.arange(1, num_outputs + 1)) - 1
