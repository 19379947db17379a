"""The fp8 KV cache: every code and every rounding is torch's, and attention over it is the reference's."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")
import triton
import triton.language as tl

from model.kernels.triton.fp8 import rounded, widened
from model.kv_cache import FP8, MAX_FP8, KVCache
from tests.gpu.interpreted import CPU, Twins, config

BLOCK = tl.constexpr(256)
CODES = torch.arange(256, dtype=torch.uint8)
NUMBERS = CODES.view(FP8).float()


@triton.jit
def widen(x, out, size):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, widened(tl.load(x + i, mask=i < size), out.dtype.element_ty), mask=i < size)


@triton.jit
def narrow(x, out, size):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, rounded(tl.load(x + i, mask=i < size), out.dtype.element_ty), mask=i < size)


def codes_of(x: Tensor) -> Tensor:
    out = torch.empty(len(x), dtype=torch.uint8)
    narrow[(-(-len(x) // 256),)](x, out, len(x))
    return out


def check_rounding(x: Tensor) -> None:
    expected = x.clamp(-MAX_FP8, MAX_FP8).to(FP8).view(torch.uint8)
    assert codes_of(x).tolist() == expected.tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_every_code_is_the_number_that_torch_reads(dtype):
    out = torch.empty(256, dtype=dtype)
    widen[(1,)](CODES, out, 256)
    assert torch.equal(out.float().nan_to_num(7.0), NUMBERS.nan_to_num(7.0))
    assert out.signbit().tolist()[:127] == [False] * 127
    assert out.signbit().tolist()[128:255] == [True] * 127


def test_every_number_keeps_its_code():
    is_number = ~NUMBERS.isnan()
    assert codes_of(NUMBERS[is_number]).tolist() == CODES[is_number].tolist()


def test_ties_go_to_the_even_code_and_their_neighbours_to_the_nearest():
    ascending = NUMBERS[:127]
    ties = (ascending[1:] + ascending[:-1]) / 2
    ties = torch.cat((ties, -ties))
    for x in (ties, ties.nextafter(torch.tensor(torch.inf)), ties.nextafter(torch.tensor(-torch.inf))):
        check_rounding(x)


def test_what_is_too_large_becomes_the_largest_and_nan_stays():
    assert codes_of(torch.tensor([448.0, 463.9, 464.0, 480.0, 1e30, torch.inf])).tolist() == [0x7E] * 6
    assert codes_of(torch.tensor([-448.1, -1e30, -torch.inf])).tolist() == [0xFE] * 3
    assert (codes_of(torch.tensor([torch.nan, -torch.nan])) & 0x7F).tolist() == [0x7F] * 2


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=300))
def test_any_number_is_rounded_as_torch_rounds(numbers):
    check_rounding(torch.tensor(numbers))


@settings(max_examples=5, deadline=None)
@given(st.lists(st.floats(width=16, allow_nan=False), min_size=1, max_size=300))
def test_any_half_is_rounded_as_torch_rounds(numbers):
    check_rounding(torch.tensor(numbers, dtype=torch.float16))


@settings(max_examples=6, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 90), st.sampled_from((1, 2, 17, 30))), min_size=1, max_size=3),
    heads=st.sampled_from(((4, 2, 16), (3, 1, 80), (7, 1, 32))),
    window=st.sampled_from((None, 20)),
    dtype=st.sampled_from((torch.float32, torch.float16)),
)
def test_attention_over_fp8_is_the_references(rows, heads, window, dtype):
    """Both round alike, so what is left is the rounding of the sums."""
    num_computed, num_new = [c for c, _ in rows], [n for _, n in rows]
    twins = Twins(config(*heads, window), num_computed, num_new, dtype=dtype, stored=FP8)
    ours, reference = twins.attend(twins.triton), twins.attend(twins.torch)
    tolerance = 1e-5 if dtype == torch.float32 else 4e-3
    assert torch.allclose(ours, reference, atol=tolerance, rtol=tolerance)
    for ours, reference in zip(twins.triton.cache.layers[1], twins.torch.cache.layers[1], strict=True):
        assert torch.equal(ours.float().nan_to_num(7.0), reference.float().nan_to_num(7.0))


def test_attention_over_fp8_is_that_over_exact_numbers_within_their_rounding():
    """Three bits of mantissa: a number is off by a sixteenth of itself at most, an average of many by less."""
    rounded, exact = (Twins(config(4, 2, 64), [70, 40], [1, 18], stored=stored) for stored in (FP8, None))
    difference = (rounded.attend(rounded.triton) - exact.attend(exact.torch)).abs()
    assert 1e-4 < difference.max() < 0.1
    assert difference.mean() < 0.02


def test_a_cache_of_fp8_holds_the_bits_of_what_was_written():
    cache = KVCache(config(), 2, 16, torch.float32, CPU, stored=FP8)
    k_TKD = torch.linspace(-500, 500, 3 * 2 * 16).view(3, 2, 16)
    places = torch.from_numpy(np.array([5, 30, 0]))
    written, _ = cache.write(1, places, k_TKD, -k_TKD)
    keys, values = cache.read(1, places)
    assert keys.equal(written)
    assert keys.equal(k_TKD.clamp(-MAX_FP8, MAX_FP8).to(FP8).float())
    assert values.equal(-keys)
