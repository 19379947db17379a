"""The random numbers are the published ones, and a draw follows its weights exactly."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.random_draw import draw, philox4x32, uniforms

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0, 0, 0, 0], [0, 0], [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([ONES] * 4, [ONES] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, expected):
    words = philox4x32(np.array(counter, np.uint64).reshape(4, 1), np.array(key, np.uint64).reshape(2, 1))
    assert words[:, 0].tolist() == expected


def uniform(seed: int, choice: int, index: int) -> float:
    seeds, choices, indexes = (np.array([value], np.uint64) for value in (seed, choice, index))
    return float(uniforms(seeds, choices, indexes)[0])


def test_each_of_seed_choice_and_index_changes_the_number():
    base = uniform(5, 0, 0)
    others = [uniform(6, 0, 0), uniform(5 + 2**32, 0, 0), uniform(5 + 2**63, 0, 0), uniform(5, 1, 0), uniform(5, 0, 1)]
    assert len({base, *others}) == 6


def test_rows_get_the_numbers_they_get_alone():
    seeds, choices, indexes = np.random.default_rng(0).integers(0, 2**32, (3, 16)).astype(np.uint64)
    together = uniforms(seeds, choices, indexes).tolist()
    assert together == [uniform(*map(int, row)) for row in zip(seeds, choices, indexes, strict=True)]


def test_numbers_fill_the_unit_interval_evenly():
    indexes = np.arange(100_000, dtype=np.uint64)
    numbers = uniforms(np.full_like(indexes, 42), np.zeros_like(indexes), indexes)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.bincount((numbers * 100).astype(int), minlength=100)
    assert ((counts - 1000) ** 2 / 1000).sum() < 160  # chi-square of 99 degrees of freedom, p = 1e-4
    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.01


weights_lists = st.lists(st.integers(0, 2**40) | st.just(0), min_size=1, max_size=50).filter(any)
LAST = 1 - 2**-53


@given(weights_lists, st.floats(0, LAST) | st.sampled_from([0.0, LAST]))
@settings(max_examples=300, deadline=None)
def test_a_draw_is_the_first_token_whose_running_weight_exceeds_the_target(weights, number):
    token_id = int(draw(torch.tensor([weights]), torch.tensor([number], dtype=torch.float64))[0])
    assert weights[token_id] > 0
    target = int(number * float(sum(weights)))
    assert sum(weights[:token_id]) <= target < sum(weights[: token_id + 1])


@given(
    st.integers(1, 2**63 - 1) | st.builds(lambda power, less: 2**power - less, st.integers(50, 62), st.integers(1, 600))
)
@settings(max_examples=500, deadline=None)
def test_the_largest_number_stays_below_any_total(total):
    assert draw(torch.tensor([[total, 0]]), torch.tensor([LAST], dtype=torch.float64)).item() == 0


def test_totals_beyond_float64_stay_in_range():
    weights = torch.full((1, 2**18), 2**40 - 1)
    assert draw(weights, torch.tensor([LAST], dtype=torch.float64)).item() == 2**18 - 1
    weights[0, -5:] = 0
    assert draw(weights, torch.tensor([LAST], dtype=torch.float64)).item() == 2**18 - 6
