"""The packed matrix product against torch's, on every instruction set here, and each row against itself alone."""

from ctypes import addressof
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from model.config import Activation
from model.kernels.cpu.layers import CpuLinear
from model.kernels.cpu.layout import GROUP, LINE_INPUTS, PackedWeight, interleaved, interleaved_rows, pack, padded_bias
from model.kernels.cpu.library import library
from model.layers.mlp import ACTIVATIONS
from model.layers.norm import RMSNorm
from tests.kernels.levels import each_level, kernels, needs_kernels
from tests.kernels.reference_packing import dense

pytestmark = needs_kernels
FORMATS = tuple(LINE_INPUTS)
CPU = torch.device("cpu")


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def norm_of(size: int) -> RMSNorm:
    norm = RMSNorm(size, 1e-5, torch.float32, CPU)
    norm.weight.copy_(1 + 0.2 * random(size, seed=3))
    return norm


@dataclass
class Product:
    """What a CpuLinear is to compute, with float64 arithmetic on the very numbers that it holds."""

    level: str
    weight: PackedWeight
    bias: Tensor | None
    norm: RMSNorm | None

    def reference(self, x: Tensor, dense: Tensor) -> Tensor:
        if self.norm is not None:
            x = self.norm(x)
        if self.level == "avx512bf16" and self.weight.format == "bfloat16":
            x = x.bfloat16()  # this processor's product takes both sides in bfloat16
        if self.weight.scale_PG16 is not None:
            x = rounded_to_bytes(x)
        return functional.linear(x.double(), dense.double(), None if self.bias is None else self.bias.double())

    def is_close(self, ours: Tensor, reference: Tensor) -> bool:
        """Equal up to the order of the sum; where x is rounded, its norm may fall on the other side of a tie."""
        is_rounded = self.level == "avx512bf16" or self.weight.scale_PG16 is not None
        tolerance = 0.1 if is_rounded and self.norm is not None else 2e-4
        return torch.allclose(ours.double(), reference, atol=tolerance, rtol=tolerance)


def rounded_to_bytes(x_TI: Tensor) -> Tensor:
    """x as a product with quantised weights takes it: -127 to 127 times a scale for each 32 inputs."""
    padded = functional.pad(x_TI, (0, -x_TI.shape[1] % GROUP))
    grouped = padded.view(len(x_TI), -1, GROUP)
    scale = grouped.abs().amax(-1, keepdim=True) / 127
    numbers = (grouped * (1 / scale).where(scale > 0, 0)).round()
    return (numbers.double() * scale.double()).flatten(1)[:, : x_TI.shape[1]]


@each_level
@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    inputs=st.integers(1, 140),
    outputs=st.integers(1, 100),
    weight_format=st.sampled_from(FORMATS),
    has_bias=st.booleans(),
    has_norm=st.booleans(),
    num_threads=st.sampled_from((1, 3)),
)
def test_the_product_is_that_of_the_numbers_held(
    level, rows, inputs, outputs, weight_format, has_bias, has_norm, num_threads
):
    weight = pack(kernels(level), random(outputs, inputs), weight_format)
    bias = random(outputs, seed=1) if has_bias else None
    norm = norm_of(inputs) if has_norm else None
    linear = CpuLinear(kernels(level, num_threads), weight, padded_bias(bias), norm)
    x = random(rows, inputs, seed=2)
    product = Product(level, weight, bias, norm)
    assert product.is_close(linear(x), product.reference(x, dense(weight)))


@each_level
@pytest.mark.parametrize("weight_format", FORMATS)
def test_a_residual_is_added(level, weight_format):
    weight = pack(kernels(level), random(50, 33), weight_format)
    linear = CpuLinear(kernels(level), weight, epilogue="add")
    x, y = random(7, 33, seed=2), random(7, 50, seed=3)
    product = Product(level, weight, None, None)
    expected = y + product.reference(x, dense(weight))
    address = addressof(linear.arguments)
    library().nexttoken_linear(kernels(level).address, address, x.data_ptr(), len(x), y.data_ptr())
    assert product.is_close(y, expected)


@each_level
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("inner", [1, 16, 47])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_gate_multiplies_its_up(level, activation: Activation, inner, has_bias):
    gate_up, bias = random(2 * inner, 24), random(2 * inner, seed=1) if has_bias else None
    weight = pack(kernels(level), gate_up, "float32", interleaved_rows(2 * inner))
    linear = CpuLinear(
        kernels(level), weight, None if bias is None else interleaved(bias), epilogue="gated", activation=activation
    )
    x = random(9, 24, seed=2)
    gate, up = functional.linear(x, gate_up, bias).chunk(2, dim=-1)
    assert torch.allclose(linear(x), ACTIVATIONS[activation](gate) * up, atol=1e-4, rtol=1e-4)


def test_the_gate_is_right_where_the_exponential_is_not():
    x = torch.tensor([[-200.0], [-88.5], [-60.0], [0.0], [60.0], [200.0]])
    weight = pack(kernels("plain"), torch.ones(2, 1), "float32", interleaved_rows(2))
    gated = CpuLinear(kernels("plain"), weight, epilogue="gated")(x)
    assert torch.allclose(gated, functional.silu(x) * x, atol=1e-20, rtol=1e-5)


@each_level
@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("epilogue", ["store", "gated"])
def test_a_row_is_bitwise_the_same_alone_and_among_any_number_of_others(level, weight_format, epilogue):
    weight = pack(kernels(level), random(160, 96), weight_format)
    norm = norm_of(96)
    x = random(300, 96, seed=2)
    one_thread, threads = (CpuLinear(kernels(level, n), weight, norm=norm, epilogue=epilogue)(x) for n in (1, 4))
    assert one_thread.equal(threads)
    linear = CpuLinear(kernels(level, 2), weight, norm=norm, epilogue=epilogue)
    for count in (1, *range(2, 20), 32, 64, 255):
        start = 300 - count
        assert linear(x[start:].contiguous()).equal(one_thread[start:]), count
        assert linear(x[:count].contiguous()).equal(one_thread[:count]), count


@each_level
@pytest.mark.parametrize("weight_format", ["int8", "int4"])
def test_rows_of_zeros_and_of_large_numbers_are_products_too(level, weight_format):
    weight = pack(kernels(level), random(40, 64), weight_format)
    product = Product(level, weight, None, None)
    x = torch.stack((torch.zeros(64), 1e30 * random(64, seed=2), 1e-30 * random(64, seed=3)))
    assert product.is_close(CpuLinear(kernels(level), weight)(x), product.reference(x, dense(weight)))


@each_level
@pytest.mark.parametrize("weight_format", ["int8", "int4"])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_of_whole_numbers_are_exact(level, weight_format, sign):
    weight_OI = torch.ones(16, 64)
    weight_OI[:, ::GROUP] = -1.2  # so that int4 has its largest number everywhere else
    weight, x = pack(kernels(level), weight_OI, weight_format), torch.full((1, 64), float(sign))
    expected = functional.linear(x.double(), dense(weight).double())
    assert torch.allclose(CpuLinear(kernels(level), weight)(x).double(), expected, rtol=1e-6)
