"""Root mean square normalisation (Zhang and Sennrich 2019)."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.layers.linear import parameter


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, computed in float32 whatever the dtype of x."""

    def __init__(self, size: int, eps: float, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.weight = parameter((size,), dtype, device)
        self.eps = eps

    def forward(self, x_TE: Tensor) -> Tensor:
        """The normalised rows, in the dtype of x."""
        return functional.rms_norm(x_TE, self.weight.shape, self.weight, self.eps)
