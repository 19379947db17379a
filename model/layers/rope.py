"""Rotary positions (Su et al. 2021): pairs of query and key dimensions turned by an angle that grows with position."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from model.config import RopeConfig

# T tokens in the step, H heads, D head size, P = D / 2 pairs; dimension p is paired with p + P, as checkpoints store it


@dataclass(frozen=True, slots=True)
class Rotation:
    """The angles of a step's tokens, ready for every layer."""

    cos_T1D: Tensor
    sin_T1D: Tensor
    """Negative in the first half, where the partner is subtracted."""

    def __call__(self, x_THD: Tensor) -> Tensor:
        """The heads, turned."""
        partner_THD = x_THD.roll(x_THD.shape[-1] // 2, dims=-1)
        return torch.addcmul(x_THD * self.cos_T1D, partner_THD, self.sin_T1D)


class Rope:
    """Turns by position * frequency, with frequencies stretched as the config says.

    Angles are computed at each step from the positions, in float32: this costs as much as looking them up, and no
    table grows with the context.

    With `dynamic` scaling a token's frequencies are those for a sequence that ends with it. So they don't depend on
    how a prompt is cut into chunks, and equal transformers' for every token generated past the original length;
    a longer prompt that transformers reads at once gets the frequencies of its last token there.
    """

    def __init__(self, rope: RopeConfig, head_dim: int, device: torch.device) -> None:
        self.rope = rope
        self.head_dim = head_dim
        frequency_P = _frequencies(rope, head_dim)
        # cos(-x) = cos(x) and sin(-x) = -sin(x): the sign here becomes that of sin_T1D.
        self.frequency_D = torch.cat((-frequency_P, frequency_P)).to(device)

    def rotation(self, positions_T: Tensor, dtype: torch.dtype) -> Rotation:
        """The rotation of tokens at these positions, for heads of this dtype."""
        position_T1 = positions_T.unsqueeze(1).float()
        angle_TD = position_T1 * (self._dynamic(position_T1) if self.rope.kind == "dynamic" else self.frequency_D)
        cos_TD, sin_TD = angle_TD.cos(), angle_TD.sin()
        if self.rope.attention_factor != 1:
            cos_TD, sin_TD = cos_TD * self.rope.attention_factor, sin_TD * self.rope.attention_factor
        return Rotation(cos_TD.unsqueeze(1).to(dtype), sin_TD.unsqueeze(1).to(dtype))

    def _dynamic(self, position_T1: Tensor) -> Tensor:
        """NTK-aware scaling by length (bloc97 and emozilla 2023): a base for each token. Returns frequency_TD."""
        rope = self.rope
        stretch_T1 = (position_T1 + 1).clamp(min=rope.original_max_position) / rope.original_max_position
        exponent = self.head_dim / (self.head_dim - 2)
        base_scale_T1 = (rope.factor * stretch_T1 - (rope.factor - 1)) ** exponent
        # (theta * s) ** -(p / P) = frequency * s ** -(p / P)
        pair_D = torch.arange(self.head_dim, device=position_T1.device) % (self.head_dim // 2)
        return self.frequency_D * base_scale_T1 ** (-2.0 * pair_D / self.head_dim)


def _frequencies(rope: RopeConfig, head_dim: int) -> Tensor:
    """Radians per token of each pair, float32 [P] on the CPU."""
    frequency_P = rope.theta ** -(torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    if rope.kind == "linear":
        return frequency_P / rope.factor
    if rope.kind == "llama3":
        return _llama3(rope, frequency_P)
    if rope.kind == "yarn":
        return _yarn(rope, frequency_P, head_dim)
    return frequency_P


def _llama3(rope: RopeConfig, frequency_P: Tensor) -> Tensor:
    """Llama 3.1: slow pairs divided by factor, fast ones kept, a smooth change between."""
    num_turns_P = rope.original_max_position * frequency_P / (2 * math.pi)
    keep_P = (num_turns_P - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor)
    return _blend(frequency_P, rope.factor, keep_P)


def _yarn(rope: RopeConfig, frequency_P: Tensor, head_dim: int) -> Tensor:
    """YaRN (Peng et al. 2023, section 3.2): a ramp over the pairs' numbers instead of their turns."""

    def pair_with_turns(num_turns: float) -> float:
        turns_per_radian = rope.original_max_position / (num_turns * 2 * math.pi)
        return head_dim * math.log(turns_per_radian) / (2 * math.log(rope.theta))

    low, high = pair_with_turns(rope.beta_fast), pair_with_turns(rope.beta_slow)
    if rope.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    width = high - low or 0.001
    keep_P = 1 - (torch.arange(head_dim // 2, dtype=torch.float32) - low) / width
    return _blend(frequency_P, rope.factor, keep_P)


def _blend(frequency_P: Tensor, factor: float, keep_P: Tensor) -> Tensor:
    """The frequency where keep is 1 or more, divided by factor where it is 0 or less, in between by parts."""
    keep_P = keep_P.clamp(0, 1)
    return frequency_P * keep_P + frequency_P / factor * (1 - keep_P)
