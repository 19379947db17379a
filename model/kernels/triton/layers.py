"""The transformer's layers over the Triton kernels, all in one module, so that sums can wait for the next norm.

Products stay torch's. A layer is nine launches in decode: the norm, a product, rotation with the write to the cache,
attention, its merge, a product, the sum with its norm, a product, the gate, a product. All of it may be recorded in a
CUDA graph.
"""

from typing import Any

import torch
from torch import Tensor, nn

from model.attention.base import StepTensors
from model.attention.triton import TritonAttention
from model.config import Activation, ModelConfig
from model.kernels.triton.gate import gate
from model.kernels.triton.launches import padded
from model.kernels.triton.norm import add_norm
from model.layers.norm import RMSNorm
from model.layers.rope import Rotation
from model.transformer import Block, Transformer

# T tokens in the step, E hidden size, F inner size of the feed-forward half

_GATE_BLOCK = 1024


class TritonLayers(nn.Module):
    """All blocks of a Transformer and its last norm, on their own weights."""

    def __init__(self, config: ModelConfig, layers: nn.ModuleList, norm: RMSNorm) -> None:
        super().__init__()
        self.layers = layers
        self.norm = norm
        self._blocks = [layer for layer in layers if isinstance(layer, Block)]
        self.activation: Activation = config.activation

    def forward(self, x_TE: Tensor, rotation: Rotation, step: StepTensors[Any], backend: TritonAttention) -> Tensor:
        """The hidden states after the last norm. Overwrites x_TE."""
        y_TE = None
        for layer in self._blocks:
            qkv_TX = layer.attention.qkv(normed_sum(x_TE, y_TE, layer.attention_norm))
            o_THD = backend.attend_projected(layer.attention.layer, qkv_TX, rotation, step)
            y_TE = layer.attention.output(o_THD.flatten(1))
            gate_up = layer.mlp.gate_up(normed_sum(x_TE, y_TE, layer.mlp_norm))
            y_TE = layer.mlp.down(gated(gate_up, self.activation))
        return normed_sum(x_TE, y_TE, self.norm)


def use_triton_layers(model: Transformer) -> None:
    """Have a loaded model's blocks and last norm computed by one TritonLayers, for a TritonAttention.

    Weights stay where they are; `model.layers` and `model.norm` may be put back to go back.
    """
    layers = TritonLayers(model.config, model.layers, model.norm)
    model.layers = nn.ModuleList([layers])
    model.add_module("norm", nn.Identity())


def normed_sum(x_TE: Tensor, y_TE: Tensor | None, norm: RMSNorm) -> Tensor:
    """x += y, and the norm of the sum; of x alone where there's no y yet."""
    out_TE = torch.empty_like(x_TE)
    T, E = x_TE.shape
    add_norm[(T,)](
        x_TE, x_TE if y_TE is None else y_TE, norm.weight, out_TE,
        EPS=norm.eps, E=E, BLOCK_E=padded(E), HAS_SUMMAND=y_TE is not None,
        num_warps=8 if E > 2048 else 4, enable_fp_fusion=False,
    )  # fmt: skip
    return out_TE


def gated(gate_up: Tensor, activation: Activation) -> Tensor:
    """activation(gate) * up, both [T, F] and side by side in gate_up."""
    T, F = gate_up.shape[0], gate_up.shape[1] // 2
    out_TF = gate_up.new_empty(T, F)
    gate[(T, -(-F // _GATE_BLOCK))](
        gate_up, out_TF, F=F, ACTIVATION=activation, BLOCK_F=_GATE_BLOCK, num_warps=4, enable_fp_fusion=False
    )
    return out_TF
