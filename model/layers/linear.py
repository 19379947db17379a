"""A matrix product with weights as checkpoints store them: one row for each output."""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Linear(nn.Module):
    """x_TI -> y_TO. Weights are uninitialised memory until they're loaded."""

    def __init__(
        self, num_inputs: int, num_outputs: int, has_bias: bool, dtype: torch.dtype, device: torch.device
    ) -> None:
        super().__init__()
        self.weight = parameter((num_outputs, num_inputs), dtype, device)
        self.bias = parameter((num_outputs,), dtype, device) if has_bias else None

    def forward(self, x_TI: Tensor) -> Tensor:
        """The product, plus the bias where there's one."""
        return functional.linear(x_TI, self.weight, self.bias)


def parameter(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> nn.Parameter:
    """Memory for a weight, not initialised."""
    return nn.Parameter(torch.empty(shape, dtype=dtype, device=device), requires_grad=False)
