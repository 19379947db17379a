"""The packed matrix product against torch's, on every instruction set here, and each row against itself alone."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from model.config import Activation
from model.kernels.cpu.layers import CpuLinear
from model.kernels.cpu.layout import GROUP, LINE_INPUTS, PackedWeight, interleaved, pack, padded_bias, quantize
from model.layers.mlp import ACTIVATIONS
from model.layers.norm import RMSNorm
from tests.kernels.levels import each_level, kernels, needs_kernels

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
        return functional.linear(x.double(), dense.double(), None if self.bias is None else self.bias.double())


def close(ours: Tensor, reference: Tensor, level: str) -> bool:
    # Where x is rounded to bfloat16, the reference's norm may round a near-tie the other way.
    tolerance = 2e-2 if level == "avx512bf16" else 1e-4
    return torch.allclose(ours.double(), reference, atol=tolerance, rtol=tolerance)


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
    weight = pack(random(outputs, inputs), weight_format)
    bias = random(outputs, seed=1) if has_bias else None
    norm = norm_of(inputs) if has_norm else None
    linear = CpuLinear(kernels(level, num_threads), weight, padded_bias(bias), norm)
    x = random(rows, inputs, seed=2)
    expected = Product(level, weight, bias, norm).reference(x, weight.dense())
    assert close(linear(x), expected, level)


@each_level
@pytest.mark.parametrize("weight_format", FORMATS)
def test_a_residual_is_added(level, weight_format):
    weight = pack(random(50, 33), weight_format)
    linear = CpuLinear(kernels(level), weight, epilogue="add")
    x, y = random(7, 33, seed=2), random(7, 50, seed=3)
    expected = y + Product(level, weight, None, None).reference(x, weight.dense())
    linear.add_to(y, x)
    assert close(y, expected, level)


@each_level
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("inner", [1, 16, 47])
@pytest.mark.parametrize("has_bias", [False, True])
def test_a_gate_multiplies_its_up(level, activation: Activation, inner, has_bias):
    gate_up, bias = random(2 * inner, 24), random(2 * inner, seed=1) if has_bias else None
    weight = pack(interleaved(gate_up), "float32", 2 * inner)
    linear = CpuLinear(
        kernels(level), weight, None if bias is None else interleaved(bias), epilogue="gated", activation=activation
    )
    x = random(9, 24, seed=2)
    gate, up = functional.linear(x, gate_up, bias).chunk(2, dim=-1)
    assert torch.allclose(linear(x), ACTIVATIONS[activation](gate) * up, atol=1e-4, rtol=1e-4)


def test_the_gate_is_right_where_the_exponential_is_not():
    x = torch.tensor([[-200.0], [-88.5], [-60.0], [0.0], [60.0], [200.0]])
    weight = pack(interleaved(torch.ones(2, 1)), "float32", 2)
    gated = CpuLinear(kernels("plain"), weight, epilogue="gated")(x)
    assert torch.allclose(gated, functional.silu(x) * x, atol=1e-20, rtol=1e-5)


@each_level
@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("epilogue", ["store", "gated"])
def test_a_row_is_bitwise_the_same_alone_and_among_any_number_of_others(level, weight_format, epilogue):
    weight = pack(random(160, 96), weight_format)
    norm = norm_of(96)
    x = random(300, 96, seed=2)
    one_thread, threads = (CpuLinear(kernels(level, n), weight, norm=norm, epilogue=epilogue)(x) for n in (1, 4))
    assert one_thread.equal(threads)
    linear = CpuLinear(kernels(level, 2), weight, norm=norm, epilogue=epilogue)
    for count in (1, *range(2, 20), 32, 64, 255):
        start = 300 - count
        assert linear(x[start:].contiguous()).equal(one_thread[start:]), count
        assert linear(x[:count].contiguous()).equal(one_thread[:count]), count


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(1, 60),
    inputs=st.integers(1, 100),
    weight_format=st.sampled_from(("float32", "bfloat16")),
)
def test_packing_keeps_every_number(rows, inputs, weight_format):
    weight = random(rows, inputs).to(getattr(torch, weight_format))
    packed = pack(weight, weight_format)
    assert packed.dense().equal(weight.float())
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(1))
    assert packed.rows(order).equal(weight[order].float())


@pytest.mark.parametrize(("weight_format", "steps"), [("int8", 254), ("int4", 15)])
def test_quantising_is_off_by_at_most_a_step(weight_format, steps):
    weight = random(64, 128)
    groups = weight.view(64, -1, GROUP)
    span = 2 * groups.abs().amax(-1, keepdim=True)
    error = (pack(weight, weight_format).dense().view_as(groups) - groups).abs()
    # Half a step, or a whole one where the scale's sign leaves no number for the largest value of the other sign.
    allowed = 0.505 if weight_format == "int8" else 1.15
    assert (error <= allowed * span / steps).all()


@pytest.mark.parametrize("weight_format", ["int8", "int4"])
def test_quantised_zeros_stay_zero(weight_format):
    numbers, scale = quantize(torch.zeros(2, 64), weight_format)
    assert not numbers.any()
    assert not scale.any()


@each_level
def test_the_norm_is_torchs(level):
    norm, x = norm_of(77), random(5, 77, seed=4)
    assert torch.allclose(kernels(level).norm(norm.weight, norm.eps, x), norm(x), atol=1e-6)
