"""Draws one token a row from weights, by counter-based random numbers.

A draw is a function of (seed, choice, index) and the row's weights alone: no generator keeps a state, so neighbours
in the batch, a preemption or a new worker change nothing.
"""

# R rows, V vocabulary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MASK = np.uint64(0xFFFFFFFF)
_MULTIPLIERS = np.array([[0xD2511F53], [0xCD9E8D57]], dtype=np.uint64)
_KEY_STEPS = np.array([[0x9E3779B9], [0xBB67AE85]], dtype=np.uint64)


def uniforms(
    seeds_R: NDArray[np.uint64], choices_R: NDArray[np.uint64], indexes_R: NDArray[np.uint64]
) -> NDArray[np.float64]:
    """For each row a number in [0, 1), a multiple of 2^-53, that (seed, choice, index) determines.

    Seeds have 64 bits, choices and indexes 32. Computed on the host, where all three are known: every device
    gets the same numbers.
    """
    nothing_R = np.zeros_like(seeds_R)
    counters_4R = np.stack([indexes_R, nothing_R, choices_R, nothing_R])
    keys_2R = np.stack([seeds_R & _MASK, seeds_R >> np.uint64(32)])
    first_R, second_R, *_ = philox4x32(counters_4R, keys_2R)
    bits_R = (first_R << np.uint64(21)) | (second_R >> np.uint64(11))
    uniform_R: NDArray[np.float64] = bits_R * 2.0**-53
    return uniform_R


def philox4x32(counters_4R: NDArray[np.uint64], keys_2R: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Philox4x32-10: four random 32-bit words [4, R] for each counter of four words under a key of two.

    Every word, given and returned, is below 2^32 and held in a uint64. Source: Salmon, Moraes, Dror and Shaw,
    "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
    """
    even_2R, odd_2R = counters_4R[0::2], counters_4R[1::2]
    for _ in range(10):
        product_2R = _MULTIPLIERS * even_2R
        even_2R = (product_2R >> np.uint64(32))[::-1] ^ odd_2R ^ keys_2R
        odd_2R = (product_2R & _MASK)[::-1]
        keys_2R = (keys_2R + _KEY_STEPS) & _MASK
    return np.stack([even_2R[0], odd_2R[0], even_2R[1], odd_2R[1]])


def draw(weights_RV: Tensor, uniform_R: Tensor) -> Tensor:
    """Token ids [R], int64: the first whose running weight exceeds `uniform * total` (inverse of the distribution).

    weights_RV int64, not negative, each row's total between 1 and 2^63 - 1; uniform_R float64 in [0, 1). Integer sums
    are exact, so no order of summation changes a draw. A token of weight zero is never drawn.
    """
    running_RV = weights_RV.cumsum(dim=1)
    total_R = running_RV.select(1, -1)
    # Below the total even where float64 rounds that up, since the number is at most 1 - 2^-53.
    target_R = (uniform_R * total_R.double()).long()
    return torch.searchsorted(running_RV, target_R.unsqueeze(1), right=True).squeeze(1)
