"""Top-k, top-p, min-p and typical-p keep the tokens that their definitions name."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import TypicalLogitsWarper

from model.truncation import min_p_gap, surprise_gaps, top_k_gap, top_p_gap

seeds = st.integers(0, 2**32 - 1)
sizes = st.integers(1, 700)


def random_gaps(seed: int, size: int, with_ties: bool) -> torch.Tensor:
    """Three rows of gaps, from peaked to flat; the first token of each is not the most likely one in general."""
    logits = np.random.default_rng(seed).normal(size=(3, size)) * [[8.0], [2.0], [0.1]]
    if with_ties:
        logits = logits.round(1)
    return torch.from_numpy((logits.max(axis=1, keepdims=True) - logits).astype(np.float32))


def weights_of(gaps: torch.Tensor) -> torch.Tensor:
    return (gaps.neg().exp() * 2.0**40).long()


@given(seeds, sizes, st.booleans(), st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_top_k_keeps_the_k_most_likely_and_their_equals(seed, size, with_ties, part):
    gaps = random_gaps(seed, size, with_ties)
    k = max(1, math.ceil(part * size))
    limits = top_k_gap(gaps, torch.tensor([k, 1, size]))
    expected = [np.sort(row)[rank - 1] for row, rank in zip(gaps.numpy(), (k, 1, size), strict=True)]
    assert limits.tolist() == expected


@given(seeds, sizes, st.booleans(), st.floats(0, 1) | st.sampled_from([1e-10, 1e-4, 1.0]))
@settings(max_examples=150, deadline=None)
def test_top_p_keeps_the_smallest_likely_set_that_reaches_p(seed, size, with_ties, top_p):
    gaps = random_gaps(seed, size, with_ties)
    limits = top_p_gap(gaps, weights_of(gaps), torch.full((3,), top_p, dtype=torch.float64))
    for row, limit in zip(gaps.double().numpy(), limits.tolist(), strict=True):
        probabilities = np.exp(-row) / np.exp(-row).sum()
        mass_of_kept = probabilities[row <= limit].sum()
        mass_without_border = probabilities[row < limit].sum()
        assert mass_of_kept >= top_p - 1e-6
        assert mass_without_border < top_p + 1e-6
        assert limit in row


def test_top_p_of_one_keeps_every_token_that_can_be_drawn_however_many():
    gaps = torch.zeros(1, 200_000)
    gaps[0, 123] = 27.0
    weights = weights_of(gaps)
    assert weights[0, 123] > 0
    assert float(weights.sum()) == float(weights.sum() - weights[0, 123])  # in float64 this token makes no difference
    assert top_p_gap(gaps, weights, torch.ones(1, dtype=torch.float64)).item() == 27.0


def test_top_p_beyond_the_few_first_tokens_leaves_the_neighbours_as_they_are():
    peaked, flat = torch.arange(1000.0), torch.linspace(0, 1, 1000)
    gaps = torch.stack([peaked, flat, peaked])
    limits = top_p_gap(gaps, weights_of(gaps), torch.full((3,), 0.9, dtype=torch.float64))
    assert limits[0] == limits[2] == 2.0  # 1 - 1/e^3 = 0.95 is the first to reach 0.9
    assert 0.8 < limits[1] < 0.9


def test_infinite_gaps_are_kept_last():
    gaps = torch.tensor([[torch.inf, 1.0, 0.0, torch.inf]])
    assert top_k_gap(gaps, torch.tensor([2])).item() == 1.0
    assert top_k_gap(gaps, torch.tensor([3])).item() == torch.inf
    assert top_p_gap(gaps, weights_of(gaps), torch.tensor([1.0], dtype=torch.float64)).item() == 1.0


def test_min_p_is_relative_to_the_most_likely_token():
    limits = min_p_gap(torch.tensor([0.0, 0.1, 1.0], dtype=torch.float64)).tolist()
    assert limits[0] == math.inf
    assert math.isclose(math.exp(-limits[1]), 0.1)
    assert limits[2] == 0


@given(seeds, st.integers(1, 300), st.booleans(), st.sampled_from([0.05, 0.3, 0.7, 0.95]))
@settings(max_examples=100, deadline=None)
def test_typical_p_keeps_what_transformers_keeps(seed, size, with_ties, mass):
    gaps = random_gaps(seed, size, with_ties)
    kept_by_them = TypicalLogitsWarper(mass)(torch.zeros(3, 1, dtype=torch.int64), -gaps.double()) > -torch.inf
    weights = weights_of(gaps)
    surprise = surprise_gaps(gaps, weights)
    limits = top_p_gap(surprise, weights, torch.full((3,), mass, dtype=torch.float64))
    for ours, theirs, distances, limit in zip(surprise <= limits[:, None], kept_by_them, surprise, limits, strict=True):
        # Tokens as far off as the last one kept are kept too; rounding decides which those are.
        is_near = (distances - limit).abs() < 1e-5
        assert (ours == theirs)[~is_near].all()
        assert theirs[is_near].any() or not is_near.any()


def test_tokens_that_cannot_be_drawn_do_not_count_for_typical_p():
    gaps = torch.tensor([[0.0, 1.0, torch.inf, 30.0]])
    weights = weights_of(gaps)
    mean = (math.exp(-1) / (1 + math.exp(-1))) * 1.0
    assert torch.allclose(surprise_gaps(gaps, weights)[0], (gaps[0] - mean).abs(), atol=1e-5)
