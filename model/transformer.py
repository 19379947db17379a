"""The one transformer, built from the parts that a ModelConfig chooses."""

from typing import Any

import torch
from torch import Tensor, nn

from model.attention.base import AttentionBackend, StepTensors
from model.config import ModelConfig
from model.errors import NotEnoughMemory
from model.layers.attention import Attention
from model.layers.embedding import Embedding
from model.layers.linear import Linear
from model.layers.mlp import GatedMLP
from model.layers.norm import RMSNorm
from model.layers.rope import Rope, Rotation

# T tokens in the step, R rows to sample, E hidden size, V vocabulary


class Block(nn.Module):
    """One layer: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig, layer: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.hidden_size, config.norm_eps, dtype, device)
        self.attention = Attention(config, layer, dtype, device)
        self.mlp_norm = RMSNorm(config.hidden_size, config.norm_eps, dtype, device)
        self.mlp = GatedMLP(config, dtype, device)

    def forward(
        self, x_TE: Tensor, rotation: Rotation, step: StepTensors[Any], backend: AttentionBackend[Any]
    ) -> Tensor:
        """The hidden states after this layer."""
        x_TE = x_TE + self.attention(self.attention_norm(x_TE), rotation, step, backend)
        y_TE: Tensor = self.mlp(self.mlp_norm(x_TE))
        return x_TE + y_TE


class Transformer(nn.Module):
    """A decoder for inference alone. Its weights are uninitialised memory until `load_weights` has filled them."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        """Raises NotEnoughMemory when the device can't hold the weights."""
        super().__init__()
        self.config = config
        self.dtype = dtype
        self.device = device
        self.rope = Rope(config.rope, config.head_dim, device)
        try:
            self._allocate(config, dtype, device)
        except RuntimeError as error:  # torch.OutOfMemoryError on a GPU, a plain RuntimeError on the CPU
            raise NotEnoughMemory(f"no room on {device} for the weights in {dtype}") from error

    def _allocate(self, config: ModelConfig, dtype: torch.dtype, device: torch.device) -> None:
        self.embedding = Embedding(config.vocab_size, config.hidden_size, dtype, device)
        self.layers = nn.ModuleList(Block(config, i, dtype, device) for i in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.norm_eps, dtype, device)
        self.head = None
        if not config.tie_embeddings:
            self.head = Linear(config.hidden_size, config.vocab_size, False, dtype, device)

    def forward(self, step: StepTensors[Any], backend: AttentionBackend[Any]) -> Tensor:
        """Computes the step's tokens and keeps their keys and values. Returns hidden_TE for `logits`.

        They went through the last norm, unless that is a part of the head (model/kernels/cpu/packing.py).
        """
        rotation = self.rope.rotation(step.positions_T, self.dtype)
        x_TE: Tensor = self.embedding(step.token_ids_T)
        for layer in self.layers:
            x_TE = layer(x_TE, rotation, step, backend)
        hidden_TE: Tensor = self.norm(x_TE)
        return hidden_TE

    def logits(self, hidden_RE: Tensor) -> Tensor:
        """What the hidden states say about the next token: logits_RV, float32."""
        logits_RV: Tensor = self.embedding.logits(hidden_RE) if self.head is None else self.head(hidden_RE)
        return logits_RV.float()
