"""The sampling kernel, interpreted, draws what the torch sampler draws."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")
from model.batch import NO_TOKEN, Join, SamplingParams
from model.kernels.triton.proof import sampling_check
from model.kernels.triton.sampler import TritonSampler
from model.sampler import Sampler
from tests.gpu.interpreted import CPU
from tests.sampler.drawing import all_params, drawn

INF = float("inf")
NUM_ROWS = 6
# numpy warns of what a GPU, like torch, computes in silence: an infinite logit minus itself.
pytestmark = [
    pytest.mark.filterwarnings("ignore:invalid value encountered"),
    pytest.mark.filterwarnings("ignore:overflow encountered"),
]


class SmallTiles(TritonSampler):
    block = 32


def draws_of_both(logits_RV: Tensor, params: list[SamplingParams]) -> list[list[int]]:
    return [drawn(kind(NUM_ROWS, logits_RV.shape[1], (1,), CPU), logits_RV, params) for kind in (SmallTiles, Sampler)]


@settings(max_examples=25, deadline=None)
@given(
    params=st.lists(all_params, min_size=1, max_size=4),
    vocab_size=st.sampled_from([1, 5, 32, 100]),
    spread=st.sampled_from([1e-30, 0.5, 3.0, 1e4, 1e37]),
    num_distinct=st.sampled_from([2, 10, 10**9]),
    seed=st.integers(0, 10**6),
)
def test_the_kernel_draws_what_torch_draws(params, vocab_size, spread, num_distinct, seed):
    chance = np.random.default_rng(seed)
    # Few distinct numbers make ties, which a truncation keeps or drops together.
    numbers = chance.normal(size=min(num_distinct, 2 * vocab_size)) * spread
    logits = chance.choice(numbers, (len(params), vocab_size)).astype(np.float32)
    ours, reference = draws_of_both(torch.from_numpy(logits), params)
    assert ours == reference


@settings(max_examples=6, deadline=None)
@given(
    params=st.lists(all_params, min_size=2, max_size=NUM_ROWS),
    chosen=st.integers(0, NUM_ROWS - 1),
    seed=st.integers(0, 10**6),
)
def test_a_draw_depends_on_its_row_alone(params, chosen, seed):
    logits_RV = torch.randn(len(params), 60, generator=torch.Generator().manual_seed(seed))
    row = chosen % len(params)
    together = drawn(SmallTiles(NUM_ROWS, 60, (1,), CPU), logits_RV, params)
    alone = SmallTiles(NUM_ROWS, 60, (1,), CPU)
    alone.block = 64  # nor on the number of tiles
    alone.join([Join(2, [0, 1], 2, row, params[row])])
    draws = alone.sample(logits_RV[[row]], [2], [2], torch.zeros(NUM_ROWS, 16, dtype=torch.int32))
    assert draws.token_ids_R.tolist() == [together[row]]


def test_the_check_at_the_start_tells_a_sampler_that_draws_otherwise():
    class Careless(Sampler):
        def _truncate(self, gaps_RV, weights_RV, rows):
            """Nothing is excluded."""

    class Failing(Sampler):
        def _choose(self, logits_RV, rows):
            raise RuntimeError("out of\n resource: shared memory")

    right, careless, failing = (sampling_check(96, CPU, (kind, Sampler)) for kind in (SmallTiles, Careless, Failing))
    assert (right.is_used, right.note) == (True, "7 of 7 tokens drawn as torch draws them")
    assert not careless.is_used
    assert (failing.is_used, failing.note) == (False, "it failed: RuntimeError: out of resource: shared memory")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("limits", [{}, {"top_k": 3, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.9}])
def test_rows_with_infinities_and_without_a_distribution_are_as_in_torch(temperature, limits):
    rows = torch.randn(6, 40, generator=torch.Generator().manual_seed(1))
    rows[0] = -INF
    rows[1, -1] = torch.nan
    rows[2, 0] = torch.nan
    rows[3, 1:] = INF
    rows[4, 1:] = -INF
    params = [SamplingParams(max_tokens=9, temperature=temperature, seed=row, **limits) for row in range(6)]
    ours, reference = draws_of_both(rows, params)
    assert ours == reference
    assert ours[:3] == [NO_TOKEN] * 3
    assert ours[4] == 0
