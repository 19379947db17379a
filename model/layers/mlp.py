"""The gated feed-forward half of a block (Shazeer 2020)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import Activation, ModelConfig
from model.layers.linear import Linear

ACTIVATIONS: dict[Activation, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": functional.gelu,
    "gelu_tanh": lambda x: functional.gelu(x, approximate="tanh"),
    "relu": functional.relu,
}


class GatedMLP(nn.Module):
    """down(activation(gate(x)) * up(x)), with gate and up in one product."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        hidden, inner = config.hidden_size, config.intermediate_size
        self.gate_up = Linear(hidden, 2 * inner, config.mlp_bias, dtype, device)
        self.down = Linear(inner, hidden, config.mlp_bias, dtype, device)
        self.activation = ACTIVATIONS[config.activation]

    def forward(self, x_TE: Tensor) -> Tensor:
        """The block's second summand, y_TE."""
        gate_TF, up_TF = self.gate_up(x_TE).chunk(2, dim=-1)
        y_TE: Tensor = self.down(self.activation(gate_TF) * up_TF)
        return y_TE
