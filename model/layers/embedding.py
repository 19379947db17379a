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
