"""How a weight matrix lies in memory for the kernels, and back.

Sixteen outputs make a panel. A panel is a run of 64-byte lines, each with the next few inputs of all sixteen outputs:
`[panel, line, output, input]`. A line has 1 input an output in float32, 2 in bfloat16, 4 in int8 and 8 in int4, so an
output's share of a line is always 32 bits, the lowest of them its first input. Outputs and inputs are padded with
zeros to whole panels and lines (int8 and int4: whole groups).

int8 and int4 follow Q8_0 and Q4_0 of llama.cpp: 32 inputs of an output share a scale, and a weight is scale * number.
The scale is bfloat16: it is rounded before the numbers are chosen, so that they make up for it. Numbers are stored
unsigned, with OFFSET added, as the processors' products of bytes want one side. In a line of int4 the low halves of an
output's four bytes are its first four inputs, the high halves the next four.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from model.kernels.cpu.pages import Pages

# O outputs, I inputs, P panels of 16 outputs, L lines, G groups of 32 inputs

PANEL = 16
GROUP = 32
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

    def kept_in(self, pages: Pages) -> "PackedWeight":
        """The same, in memory that lasts."""
        scale_PG16 = None if self.scale_PG16 is None else pages.keep(self.scale_PG16)
        return replace(self, lines_PL64=pages.keep(self.lines_PL64), scale_PG16=scale_PG16)

    @property
    def num_bytes(self) -> int:
        """What the matrix takes in memory."""
        return self.lines_PL64.numel() + (0 if self.scale_PG16 is None else 2 * self.scale_PG16.numel())

    def rows(self, output_N: Tensor) -> Tensor:
        """Rows of the matrix by number, float32 [N, inputs], contiguous."""
        panel_N, lane_N = output_N // PANEL, output_N % PANEL
        share = self.lines_PL64.view(len(self.lines_PL64), -1, PANEL, 4)[panel_N, :, lane_N]
        numbers = _from_shares(share, self.format)
        if self.scale_PG16 is not None:
            numbers = numbers * self.scale_PG16[panel_N, :, lane_N].float().repeat_interleave(GROUP, dim=1)
        return numbers[:, : self.num_inputs].contiguous()

    def dense(self) -> Tensor:
        """The whole matrix as the kernels see it, float32 [O, I]."""
        return self.rows(torch.arange(self.num_outputs))


def pack(weight_OI: Tensor, weight_format: WeightFormat, num_outputs: int | None = None) -> PackedWeight:
    """The matrix in panels; rounds or quantises where the format is narrower than the tensor's dtype.

    `num_outputs` tells how many of the rows count, where some are padding.
    """
    num_outputs, num_inputs = num_outputs or len(weight_OI), weight_OI.shape[1]
    is_quantized = weight_format in ("int8", "int4")
    line_inputs = LINE_INPUTS[weight_format]
    padding = GROUP if is_quantized else line_inputs
    padded = pad(weight_OI, (0, -num_inputs % padding, 0, -len(weight_OI) % PANEL))
    scale_PG16 = None
    if is_quantized:
        numbers, scale_OG = quantize(padded, weight_format)
        numbers = (numbers.to(torch.int16) + OFFSET[weight_format]).to(torch.uint8)
        scale_PG16 = scale_OG.view(-1, PANEL, scale_OG.shape[1]).transpose(1, 2).contiguous()
    else:
        numbers = padded.to(torch.float32 if weight_format == "float32" else torch.bfloat16)
    by_line = numbers.view(len(padded) // PANEL, PANEL, -1, line_inputs).transpose(1, 2).contiguous()
    if weight_format == "int4":
        by_line = by_line[..., :4] | by_line[..., 4:] << 4
    lines_PL64 = by_line.view(len(by_line), by_line.shape[1], -1).view(torch.uint8)
    return PackedWeight(weight_format, num_outputs, num_inputs, lines_PL64, scale_PG16)


def padded_bias(bias_O: Tensor | None) -> Tensor | None:
    """A bias with zeros up to the last panel's end."""
    return None if bias_O is None else pad(bias_O, (0, -len(bias_O) % PANEL))


def interleaved(gate_up: Tensor) -> Tensor:
    """Gate and up, one above the other, as panels of both in turn: the kernel finishes a gate with its up at hand.

    Takes a matrix or a bias; each half is padded to whole panels.
    """
    num_outputs, inputs = len(gate_up) // 2, gate_up.shape[1:]
    halves = gate_up.view(2, num_outputs, *inputs)
    padding = (0,) * (2 * len(inputs)) + (0, -num_outputs % PANEL)
    return pad(halves, padding).view(2, -1, PANEL, *inputs).transpose(0, 1).flatten(0, 2)


def quantize(weight_OI: Tensor, weight_format: WeightFormat) -> tuple[Tensor, Tensor]:
    """Whole numbers int8 [O, I] and their scales bfloat16 [O, I / 32].

    int8 takes -127 to 127. int4 takes -8 to 7, with the scale signed so that the weight of the largest magnitude
    becomes -8, as in Q4_0.
    """
    grouped = weight_OI.float().view(len(weight_OI), -1, GROUP)
    if weight_format == "int8":
        low, high = -127, 127
        scale = grouped.abs().amax(-1, keepdim=True) / 127
    else:
        low, high = -8, 7
        largest = grouped.gather(-1, grouped.abs().argmax(-1, keepdim=True))
        scale = largest / -8
    scale = scale.bfloat16()
    inverse = torch.where(scale == 0, 0.0, 1 / scale.float())
    numbers = (grouped * inverse).round().clamp(low, high)
    return numbers.to(torch.int8).flatten(1), scale.squeeze(-1)


def _from_shares(share_NL4: Tensor, weight_format: WeightFormat) -> Tensor:
    """The numbers in an output's shares of its lines, float32 [N, padded inputs]."""
    share_NL4 = share_NL4.contiguous()
    if weight_format == "float32":
        return share_NL4.view(torch.float32).flatten(1)
    if weight_format == "bfloat16":
        return share_NL4.view(torch.bfloat16).flatten(1).float()
    numbers = torch.cat((share_NL4 & 15, share_NL4 >> 4), dim=-1) if weight_format == "int4" else share_NL4
    return numbers.flatten(1).float() - OFFSET[weight_format]
