"""Packed weights are, byte for byte, what torch's operations make of the matrix, on every instruction set here."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad

from model.kernels.cpu.layers import CpuLinear
from model.kernels.cpu.layout import GROUP, LINE_INPUTS, PANEL, interleaved_rows, pack
from tests.kernels.levels import each_level, kernels, needs_kernels
from tests.kernels.reference_packing import dense, packed_by_torch

pytestmark = needs_kernels
FORMATS = tuple(LINE_INPUTS)


def random(*shape: int) -> Tensor:
    """Numbers of many magnitudes, some of them the same, some zero, in some rows all."""
    generator = torch.Generator().manual_seed(0)
    exponents = torch.randint(-12, 9, (shape[0], 1), generator=generator)
    numbers = torch.randn(*shape, generator=generator).mul(8).round().div(8) * 2.0**exponents
    numbers[::7] = 0
    return numbers


@each_level
@settings(max_examples=60, deadline=None)
@given(
    outputs=st.integers(1, 80),
    inputs=st.integers(1, 140),
    weight_format=st.sampled_from(FORMATS),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    num_threads=st.sampled_from((1, 3)),
)
def test_the_bytes_are_those_of_the_layout(level, outputs, inputs, weight_format, dtype, num_threads):
    weight = random(outputs, inputs).to(dtype)
    packed = pack(kernels(level, num_threads), weight, weight_format)
    lines, scale = packed_by_torch(weight, weight_format)
    assert packed.lines_PL64.equal(lines)
    assert (packed.scale_PG16 is None) == (scale is None)
    assert scale is None or packed.scale_PG16.equal(scale)


@each_level
@pytest.mark.parametrize("inner", [1, 16, 47])
def test_panels_of_gate_and_up_take_turns(level, inner):
    weight = random(2 * inner, 40)
    gate, up = (pad(half, (0, 0, 0, -inner % PANEL)).view(-1, PANEL, 40) for half in weight.chunk(2))
    lines, _ = packed_by_torch(torch.stack((gate, up), dim=1).flatten(0, 2), "bfloat16")
    assert pack(kernels(level), weight, "bfloat16", interleaved_rows(2 * inner)).lines_PL64.equal(lines)


@each_level
@pytest.mark.parametrize("weight_format", FORMATS)
def test_what_is_no_number_is_still_none(level, weight_format):
    weight = torch.ones(16, 64)
    weight[3, 40] = torch.nan
    is_nan = dense(pack(kernels(level), weight, weight_format)).isnan()
    assert is_nan[3, 40]
    assert not is_nan[:3].any()
    assert not is_nan[3, :32].any()


@pytest.mark.parametrize("weight_format", ["int8", "int4"])
def test_numbers_too_small_for_a_scale_become_zero(weight_format):
    weight = torch.zeros(16, 32)
    weight[:, 0] = 2.0**-126
    assert dense(pack(kernels("plain"), weight, weight_format)).abs().max() <= 2.0**-126


def test_rows_that_lie_apart_are_packed_as_any():
    weight = random(20, 128)
    apart, together = weight[:, ::2], weight[:, ::2].contiguous()
    assert dense(pack(kernels("plain"), apart, "int8")).equal(dense(pack(kernels("plain"), together, "int8")))


@pytest.mark.parametrize("weight_format", ["float32", "bfloat16"])
def test_packing_keeps_every_number(weight_format):
    weight = random(50, 77).to(getattr(torch, weight_format))
    packed = pack(kernels("plain"), weight, weight_format)
    assert dense(packed).equal(weight.float())


@each_level
@pytest.mark.parametrize("weight_format", FORMATS)
@pytest.mark.parametrize("inputs", [1, 32, 77])
def test_rows_are_read_back(level, weight_format, inputs):
    packed = pack(kernels(level), random(50, inputs), weight_format)
    order = torch.randperm(50, generator=torch.Generator().manual_seed(1))
    assert CpuLinear(kernels(level, 2), packed).rows(order).equal(dense(packed)[order])


def test_rows_that_are_not_there_are_not_numbers():
    linear = CpuLinear(kernels("plain"), pack(kernels("plain"), random(50, 40), "int8"))
    is_nan = linear.rows(torch.tensor([-1, 49, 50, 2**40])).isnan()
    assert is_nan.all(dim=1).tolist() == [True, False, True, True]
    assert not is_nan[1].any()


@pytest.mark.parametrize(("weight_format", "steps"), [("int8", 254), ("int4", 15)])
def test_quantising_is_off_by_at_most_a_step(weight_format, steps):
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    groups = weight.view(64, -1, GROUP)
    span = 2 * groups.abs().amax(-1, keepdim=True)
    error = (dense(pack(kernels("plain"), weight, weight_format)).view_as(groups) - groups).abs()
    # Half a step, or a whole one where the scale's sign leaves no number for the largest value of the other sign.
    allowed = 0.505 if weight_format == "int8" else 1.15
    assert (error <= allowed * span / steps).all()
