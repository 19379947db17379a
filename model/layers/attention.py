"""The attention half of a block: projections and rotation around the back end."""

from typing import Any

import torch
from torch import Tensor, nn

from model.attention.base import AttentionBackend, StepTensors
from model.config import ModelConfig
from model.layers.linear import Linear
from model.layers.rope import Rotation

# T tokens in the step, E hidden size, H query heads, K kv heads, D head size


class Attention(nn.Module):
    """Grouped-query attention (Ainslie et al. 2023) with q, k and v in one product."""

    def __init__(self, config: ModelConfig, layer: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.layer = layer
        self.num_heads = config.num_heads
        self.num_kv_heads = config.num_kv_heads
        self.head_dim = config.head_dim
        qkv_size = config.q_size + 2 * config.kv_size
        self.qkv = Linear(config.hidden_size, qkv_size, config.qkv_bias, dtype, device)
        self.output = Linear(config.q_size, config.hidden_size, config.output_bias, dtype, device)

    def forward(
        self, x_TE: Tensor, rotation: Rotation, step: StepTensors[Any], backend: AttentionBackend[Any]
    ) -> Tensor:
        """The block's first summand, y_TE. Writes the tokens' keys and values to the cache."""
        H, K = self.num_heads, self.num_kv_heads
        qkv = self.qkv(x_TE).view(-1, H + 2 * K, self.head_dim)
        qk, v_TKD = qkv.split_with_sizes((H + K, K), dim=1)
        q_THD, k_TKD = rotation(qk).split_with_sizes((H, K), dim=1)
        o_THD = backend.attend(self.layer, q_THD, k_TKD, v_TKD, step)
        y_TE: Tensor = self.output(o_THD.flatten(1))
        return y_TE
