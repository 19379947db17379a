"""The layout of packed weights, written in torch's operations."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from model.kernels.cpu.layout import GROUP, LINE_INPUTS, OFFSET, PANEL, PackedWeight, WeightFormat

# O outputs, I inputs, P panels of 16 outputs, L lines, G groups of 32 inputs


def packed_by_torch(weight_OI: Tensor, weight_format: WeightFormat) -> tuple[Tensor, Tensor | None]:
    """Lines uint8 [P, L, 64], and scales bfloat16 [P, G, 16] of int8 and int4."""
    is_quantized = weight_format in OFFSET
    line_inputs = LINE_INPUTS[weight_format]
    padding = GROUP if is_quantized else line_inputs
    padded = pad(weight_OI, (0, -weight_OI.shape[1] % padding, 0, -len(weight_OI) % PANEL))
    scale_PG16 = None
    if is_quantized:
        numbers, scale_OG = quantized(padded, weight_format)
        numbers = (numbers.to(torch.int16) + OFFSET[weight_format]).to(torch.uint8)
        scale_PG16 = scale_OG.view(-1, PANEL, scale_OG.shape[1]).transpose(1, 2).contiguous()
    else:
        numbers = padded.to(torch.float32 if weight_format == "float32" else torch.bfloat16)
    by_line = numbers.view(len(padded) // PANEL, PANEL, -1, line_inputs).transpose(1, 2).contiguous()
    if weight_format == "int4":
        by_line = by_line[..., :4] | by_line[..., 4:] << 4
    return by_line.view(len(by_line), by_line.shape[1], -1).view(torch.uint8), scale_PG16


def quantized(weight_OI: Tensor, weight_format: WeightFormat) -> tuple[Tensor, Tensor]:
    """Whole numbers int8 [O, I] and their scales bfloat16 [O, G].

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
    inverse = (1 / scale.float()).nan_to_num(0.0, 0.0, 0.0)
    numbers = (grouped * inverse).round().clamp(low, high)
    return numbers.to(torch.int8).flatten(1), scale.squeeze(-1)


def dense(weight: PackedWeight) -> Tensor:
    """The whole matrix as the kernels see it, float32 [O, I]."""
    share_OL4 = weight.lines_PL64.view(len(weight.lines_PL64), -1, PANEL, 4).transpose(1, 2).flatten(0, 1).contiguous()
    if weight.format == "float32":
        numbers_OI = share_OL4.view(torch.float32).flatten(1)
    elif weight.format == "bfloat16":
        numbers_OI = share_OL4.view(torch.bfloat16).flatten(1).float()
    else:
        is_int4 = weight.format == "int4"
        numbers = torch.cat((share_OL4 & 15, share_OL4 >> 4), dim=-1) if is_int4 else share_OL4
        scale_OG = weight.scale_PG16.float().transpose(1, 2).flatten(0, 1)
        numbers_OI = (numbers.flatten(1).float() - OFFSET[weight.format]) * scale_OG.repeat_interleave(GROUP, dim=1)
    return numbers_OI[: weight.num_outputs, : weight.num_inputs]
