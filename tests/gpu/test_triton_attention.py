"""The Triton attention, interpreted, against the torch one, and each query against itself in other company."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("triton")
from model.attention.base import StepTensors
from model.attention.triton import TritonPlan
from model.kernels.triton.launches import AttentionLaunch
from model.layers.rope import Rope
from tests.gpu.interpreted import CPU, TINY, Twins, config

HEADS = ((1, 1, 64), (4, 2, 16), (3, 1, 80), (8, 1, 128), (10, 2, 48), (7, 1, 32), (6, 1, 16))


@settings(max_examples=8, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 90), st.sampled_from((1, 1, 2, 9, 17, 30))), min_size=1, max_size=3),
    heads=st.sampled_from(HEADS),
    window=st.sampled_from((None, 1, 20, 50)),
    block_size=st.sampled_from((4, 16)),
    dtype=st.sampled_from((torch.float32, torch.float16)),
)
def test_any_mix_of_rows_equals_the_torch_back_end(rows, heads, window, block_size, dtype):
    twins = Twins(config(*heads, window), [c for c, _ in rows], [n for _, n in rows], block_size, dtype)
    ours, reference = twins.attend(twins.triton), twins.attend(twins.torch)
    tolerance = 1e-5 if dtype == torch.float32 else 4e-3
    assert torch.allclose(ours, reference, atol=tolerance, rtol=tolerance)
    for ours, reference in zip(twins.triton.cache.layers[1], twins.torch.cache.layers[1], strict=True):
        assert torch.equal(ours.nan_to_num(7.0), reference.nan_to_num(7.0))


@pytest.mark.parametrize("heads", HEADS)
def test_split_rows_and_tiles_equal_the_torch_back_end_for_each_shape_of_heads(heads):
    twins = Twins(config(*heads), [70, 40], [1, 18])
    assert torch.allclose(twins.attend(twins.triton), twins.attend(twins.torch), atol=1e-5)


@pytest.mark.parametrize("window", [None, 37])
def test_a_query_of_a_prefill_row_is_bitwise_the_same_however_its_prompt_is_cut(window):
    whole, cut = (Twins(config(3, 1, 16, window), [21], [60]) for _ in range(2))
    assert cut.attend_in_chunks(0, 20).equal(whole.attend(whole.triton))


@pytest.mark.parametrize("window", [None, 37])
def test_a_row_is_bitwise_the_same_alone_and_among_others(window):
    together, alone = (Twins(config(window=window), [75, 3, 40, 40], [1, 1, 5, 20]) for _ in range(2))
    o_THD = together.attend(together.triton)
    rows = [alone.attend_in_chunks(row, 1000) for row in range(4)]
    assert o_THD.equal(torch.cat(rows))


def test_the_number_of_programs_changes_nothing():
    few, many = (Twins(config(), [75, 3, 40], [1, 1, 5]) for _ in range(2))
    many.triton.launches = dataclasses.replace(TINY, split=AttentionLaunch(16, 16, 4, 2))
    assert few.attend(few.triton).equal(many.attend(many.triton))


def test_the_plan_of_the_longest_context_serves_any_other_copied_into_it():
    """As a recorded step does, whose launches, addresses and sizes stay those of the longest."""
    longest = Twins(config(), [4000] * 3, [1] * 3)
    plan = longest.triton.plan(*longest.rows())
    # 1,024 tokens are 32 splits of 32, more than the longest context has.
    for num_computed in ([1023, 5, 70], [0, 0, 0], [1024, 40, 3]):
        twins = Twins(config(), num_computed, [1] * 3)
        step = StepTensors(twins.write_T, twins.write_T, twins.write_T, plan)
        copy_into(plan, twins.triton.plan(*twins.rows()))
        ours = twins.triton.attend(1, *twins.parts(slice(None)), step)
        assert torch.allclose(ours, twins.attend(twins.torch), atol=1e-5)


def copy_into(plan: TritonPlan, other: TritonPlan) -> None:
    for name in ("counts_24", "merges_T4", "splits_W8", "tiles_W8", "tables_B"):
        numbers = getattr(other, name)
        getattr(plan, name)[: len(numbers)].copy_(numbers)


@pytest.mark.parametrize("head_dim", [16, 80])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_turning_on_the_way_equals_turning_before(head_dim, dtype):
    c = config(5, 1, head_dim)
    fused, reference = (Twins(c, [9, 30], [3, 18], dtype=dtype) for _ in range(2))
    positions_T = torch.cat([torch.arange(n, n + m) for n, m in ((9, 3), (30, 18))])
    rotation = Rope(c.rope, head_dim, CPU).rotation(positions_T, dtype)
    step = StepTensors(fused.write_T, positions_T, fused.write_T, fused.triton.plan(*fused.rows()))
    ours = fused.triton.attend_projected(1, fused.qkv.flatten(1), rotation, step)
    qk, v = reference.qkv.split_with_sizes((6, 1), dim=1)
    reference.qkv = torch.cat((rotation(qk), v), dim=1)
    tolerance = 1e-5 if dtype == torch.float32 else 8e-3
    assert torch.allclose(ours, reference.attend(reference.torch), atol=tolerance, rtol=tolerance)
    for ours, theirs in zip(fused.triton.cache.layers[1], reference.torch.cache.layers[1], strict=True):
        assert torch.allclose(ours, theirs, atol=tolerance, rtol=tolerance, equal_nan=True)


def test_large_scores_do_not_overflow():
    twins = Twins(config(), [50, 20], [1, 18])
    twins.qkv[:, :4] *= 300
    assert torch.allclose(twins.attend(twins.triton), twins.attend(twins.torch), atol=1e-4)
