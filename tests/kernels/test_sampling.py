"""The sampling kernel draws what the torch sampler draws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.batch import NO_TOKEN, SamplingParams
from model.constraint import mask_bytes
from model.kernels.cpu.sampler import CpuSampler
from model.sampler import Sampler
from model.slot_matchers import TokenMasks
from tests.kernels.levels import each_level, kernels, needs_kernels
from tests.sampler.drawing import all_params, drawn

pytestmark = needs_kernels
NUM_ROWS = 8
INF = float("inf")


def draws_of_both(level: str, num_threads: int, logits_RV: Tensor, params: list[SamplingParams]) -> list[list[int]]:
    vocab_size = logits_RV.shape[1]
    ours = CpuSampler(kernels(level, num_threads), NUM_ROWS, vocab_size, (1,))
    reference = Sampler(NUM_ROWS, vocab_size, (1,), torch.device("cpu"))
    return [drawn(sampler, logits_RV, params) for sampler in (ours, reference)]


@each_level
@settings(max_examples=150, deadline=None)
@given(
    params=st.lists(all_params, min_size=1, max_size=NUM_ROWS),
    vocab_size=st.sampled_from([1, 5, 16, 100, 3073, 20_000]),
    spread=st.sampled_from([1e-30, 0.5, 3.0, 1e4, 1e37]),
    num_distinct=st.sampled_from([2, 10, 10**9]),
    num_threads=st.sampled_from([1, 3]),
    seed=st.integers(0, 10**6),
)
def test_the_kernel_draws_what_torch_draws(level, params, vocab_size, spread, num_distinct, num_threads, seed):
    chance = np.random.default_rng(seed)
    # Few distinct numbers make ties, which a truncation keeps or drops together.
    numbers = chance.normal(size=min(num_distinct, 2 * vocab_size)) * spread
    logits = chance.choice(numbers, (len(params), vocab_size)).astype(np.float32)
    ours, reference = draws_of_both(level, num_threads, torch.from_numpy(logits), params)
    assert ours == reference


@each_level
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("limits", [{}, {"top_k": 3, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.9}])
@pytest.mark.parametrize("vocab_size", [3, 64, 100])
def test_rows_with_infinities_and_without_a_distribution_are_as_in_torch(level, temperature, limits, vocab_size):
    rows = torch.randn(6, vocab_size, generator=torch.Generator().manual_seed(1))
    rows[0] = -INF
    rows[1, -1] = torch.nan
    rows[2, 0] = torch.nan
    rows[3, 1:] = INF
    rows[4, 1:] = -INF
    params = [SamplingParams(max_tokens=9, temperature=temperature, seed=row, **limits) for row in range(6)]
    ours, reference = draws_of_both(level, 1, rows, params)
    assert ours == reference
    assert ours[:3] == [NO_TOKEN] * 3
    assert ours[4] == 0


@each_level
@settings(deadline=None)
@given(
    num_rows=st.integers(1, NUM_ROWS),
    vocab_size=st.integers(1, 200),
    share=st.sampled_from([0.0, 0.01, 0.5, 0.99, 1.0]),
    num_threads=st.sampled_from([1, 3]),
    seed=st.integers(0, 10**6),
)
def test_the_kernel_forbids_what_torch_forbids(level, num_rows, vocab_size, share, num_threads, seed):
    chance = np.random.default_rng(seed)
    logits = torch.from_numpy(chance.choice([1.5, -0.5, INF, -INF, np.nan], (NUM_ROWS, vocab_size)).astype(np.float32))
    rows_C = np.sort(chance.choice(NUM_ROWS, num_rows, replace=False))
    is_allowed = chance.random((num_rows, mask_bytes(vocab_size) * 8)) < share
    masks = TokenMasks(rows_C, np.packbits(is_allowed, axis=1, bitorder="little"))
    ours, reference = logits.clone(), logits.clone()
    CpuSampler(kernels(level, num_threads), NUM_ROWS, vocab_size, (1,))._forbid(ours, masks)
    Sampler(NUM_ROWS, vocab_size, (1,), torch.device("cpu"))._forbid(reference, masks)
    assert torch.equal(ours.nan_to_num(nan=7.0), reference.nan_to_num(nan=7.0))
