"""Token ids to vectors."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.layers.linear import parameter


class Embedding(nn.Module):
    """One vector for each token of the vocabulary."""

    def __init__(self, vocab_size: int, hidden_size: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.weight = parameter((vocab_size, hidden_size), dtype, device)

    def forward(self, token_ids_T: Tensor) -> Tensor:
        """The tokens' vectors, x_TE."""
        return functional.embedding(token_ids_T, self.weight)

    def logits(self, hidden_RE: Tensor) -> Tensor:
        """The product with every token's vector, logits_RV, for a model whose head is its embedding."""
        return functional.linear(hidden_RE, self.weight)
