"""The transformer's layers on packed weights: each module here replaces one of model/layers once its weights are there.

Activations are float32 between the products, whatever the weights are stored in. A product with bfloat16 weights rounds
its inputs to bfloat16 where the processor multiplies that (AVX512_BF16); one with quantised weights rounds them to
bytes, with a scale for each 32, as llama.cpp does.
"""

import ctypes
from collections.abc import Sequence
from ctypes import addressof

from torch import Tensor, nn

from model.attention.base import StepTensors
from model.attention.cpu import CpuAttention, CpuPlan
from model.config import Activation
from model.kernels.cpu import operators
from model.kernels.cpu.layout import PackedWeight, WeightFormat, interleaved, interleaved_rows, pack, padded_bias
from model.kernels.cpu.library import CpuKernels
from model.kernels.cpu.structs import ACTIVATIONS, EPILOGUES, FORMATS, LayerArguments, LinearArguments
from model.layers.attention import Attention
from model.layers.embedding import Embedding
from model.layers.linear import Linear
from model.layers.mlp import GatedMLP
from model.layers.norm import RMSNorm
from model.layers.rope import Rotation

# T tokens in the step, E hidden size, I inputs, O outputs, X rows of the merged q, k and v projection


class CpuLinear:
    """One matrix product, with what comes before it (an RMSNorm) and after it (bias, residual, gate) in one pass."""

    def __init__(
        self,
        kernels: CpuKernels,
        weight: PackedWeight,
        bias: Tensor | None = None,
        norm: RMSNorm | None = None,
        epilogue: str = "store",
        activation: Activation = "silu",
    ) -> None:
        """`bias` is in the order of the packed rows, padded to whole panels."""
        self._kernels = kernels
        self.weight = weight
        self.num_outputs = weight.num_outputs // 2 if epilogue == "gated" else weight.num_outputs
        self._bias = None if bias is None else bias.float().contiguous()
        self.arguments = LinearArguments(
            weight=weight.lines_PL64.data_ptr(),
            scale=_pointer(weight.scale_PG16),
            bias=_pointer(self._bias),
            num_inputs=weight.num_inputs,
            num_outputs=self.num_outputs,
            format=FORMATS[weight.format],
            epilogue=EPILOGUES[epilogue],
            activation=ACTIVATIONS[activation],
        )
        self._norm_I: Tensor | None = None
        if norm is not None:
            self.begin_with(norm)

    def begin_with(self, norm: RMSNorm) -> None:
        """Take rows through this norm before they are multiplied."""
        self._norm_I = norm.weight.float().contiguous()
        self.arguments.norm, self.arguments.eps = self._norm_I.data_ptr(), norm.eps

    def __call__(self, x_TI: Tensor) -> Tensor:
        """The product, float32."""
        y_TO: Tensor = operators.linear(x_TI, self._kernels.address, addressof(self.arguments), self.num_outputs)
        return y_TO

    def rows(self, output_T: Tensor) -> Tensor:
        """Rows of the weights by number, int64: float32 [T, I]."""
        x_TI: Tensor = operators.embed(
            output_T, self._kernels.address, addressof(self.arguments), self.weight.num_inputs
        )
        return x_TI


class CpuBlock(nn.Module):
    """The packed weights of a model.transformer.Block."""

    def __init__(
        self,
        kernels: CpuKernels,
        weight_format: WeightFormat,
        attention_norm: RMSNorm,
        attention: Attention,
        mlp_norm: RMSNorm,
        mlp: GatedMLP,
        activation: Activation,
    ) -> None:
        super().__init__()

        def packed(linear: Linear) -> tuple[PackedWeight, Tensor | None]:
            return pack(kernels, linear.weight, weight_format), padded_bias(linear.bias)

        self.qkv = CpuLinear(kernels, *packed(attention.qkv), norm=attention_norm)
        self.output = CpuLinear(kernels, *packed(attention.output), epilogue="add")
        rows = interleaved_rows(mlp.gate_up.weight.shape[0])
        gate_up = pack(kernels, mlp.gate_up.weight, weight_format, rows)
        bias = None if mlp.gate_up.bias is None else interleaved(mlp.gate_up.bias)
        self.gate_up = CpuLinear(kernels, gate_up, bias, mlp_norm, "gated", activation)
        self.down = CpuLinear(kernels, *packed(mlp.down), epilogue="add")

    @property
    def products(self) -> tuple[CpuLinear, ...]:
        """In the order of LayerArguments."""
        return self.qkv, self.output, self.gate_up, self.down


class CpuLayers(nn.Module):
    """All layers in one call; stands where a Transformer has its blocks."""

    def __init__(self, kernels: CpuKernels, blocks: Sequence[CpuBlock]) -> None:
        super().__init__()
        self._kernels = kernels
        self.blocks = nn.ModuleList(blocks)
        self.arguments = (LayerArguments * len(blocks))(
            *(LayerArguments(*(ctypes.pointer(product.arguments) for product in block.products)) for block in blocks)
        )

    def forward(self, x_TE: Tensor, rotation: Rotation, step: StepTensors[CpuPlan], backend: CpuAttention) -> Tensor:
        """The hidden states after the last layer, written over those before the first."""
        operators.layers(
            x_TE,
            rotation.cos_T1D,
            rotation.sin_T1D,
            step.write_T,
            backend.cache,
            self._kernels.address,
            addressof(self.arguments),
            addressof(backend.heads),
            len(self.blocks),
            addressof(step.plan.rows),
        )
        return x_TE


class CpuEmbedding(nn.Module):
    """Token ids to vectors and, where the head is tied to it, hidden states through the last norm to logits: one packed
    matrix.
    """

    def __init__(self, kernels: CpuKernels, weight_format: WeightFormat, embedding: Embedding) -> None:
        super().__init__()
        self.product = CpuLinear(kernels, pack(kernels, embedding.weight, weight_format))

    def forward(self, token_ids_T: Tensor) -> Tensor:
        """The tokens' vectors, x_TE float32."""
        return self.product.rows(token_ids_T)

    def logits(self, hidden_RE: Tensor) -> Tensor:
        """The product with every token's vector, logits_RV float32."""
        return self.product(hidden_RE)


class CpuHead(nn.Module):
    """The head where it has weights of its own, with the last norm before it."""

    def __init__(self, kernels: CpuKernels, weight_format: WeightFormat, head: Linear) -> None:
        super().__init__()
        self.product = CpuLinear(kernels, pack(kernels, head.weight, weight_format), padded_bias(head.bias))

    def forward(self, hidden_RE: Tensor) -> Tensor:
        """logits_RV, float32."""
        return self.product(hidden_RE)


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
