"""Which tokens top-k, top-p, min-p and typical-p leave: for each row the largest gap that a token may have.

A token's *gap* is how far its logit lies below the row's largest, divided by the temperature: 0 for the most likely
token, and its probability is proportional to exp(-gap). The first three truncations keep the tokens up to some gap, so
tokens of equal gap stay or go together and no order among them matters. Typical-p is top-p by another gap.
"""

# R rows, V vocabulary, F few most likely tokens, B buckets of a histogram

import torch
from torch import Tensor

# A float32 that is not negative has 31 significant bits, taken in two halves.
_LOW_BITS = 15
_NUM_BUCKETS = 1 << 16

# Cheap to find on a CPU, and usually enough: top_k is seldom larger, and top_p seldom needs more.
_FEW = 128

# Beyond this a weight is 0, and infinity times 0 is no number.
_MAX_GAP = 100.0


def top_k_gap(gaps_RV: Tensor, top_k_R: Tensor) -> Tensor:
    """Gap [R] of the k-th most likely token. gaps_RV float32, not negative, no NaN; top_k_R int64 in 1..V."""
    one = torch.ones((), dtype=torch.int64, device=gaps_RV.device)
    return _gap_reaching(gaps_RV, one.expand_as(gaps_RV), top_k_R)


def top_p_gap(gaps_RV: Tensor, weights_RV: Tensor, top_p_R: Tensor) -> Tensor:
    """Largest gap [R] in the smallest set of tokens of least gap that together weigh at least `top_p` of their row.

    weights_RV int64, not negative; top_p_R float64 in 0..1. At least one token is in the set
    (Holtzman et al. 2020, section 3.1).
    """
    total_R = weights_RV.sum(dim=1)
    # Counted from the total, which float64 may round: a top_p of 1 leaves exactly all.
    dispensable_R = ((1 - top_p_R) * total_R.double()).long()
    return _gap_reaching(gaps_RV, weights_RV, (total_R - dispensable_R).clamp(min=1))


def min_p_gap(min_p_R: Tensor) -> Tensor:
    """Largest gap [R] of a token at least `min_p` times as likely as the most likely one. Infinite for 0."""
    return -min_p_R.log()


def surprise_gaps(gaps_RV: Tensor, weights_RV: Tensor) -> Tensor:
    """How far each token's surprise, -log p, lies from the mean surprise of its row, which is the row's entropy.

    Up to these gaps top-p is locally typical sampling (Meister et al. 2022, section 4). The normaliser of p is in both
    and cancels, so surprise and gap differ alike. weights_RV int64, at most 2^40: the weighted gaps are rounded to
    integers, since a sum of floats would depend on its order.
    """
    weighed_RV = (weights_RV.double() * gaps_RV.clamp(max=_MAX_GAP)).long()
    mean_R = weighed_RV.sum(dim=1).double() / weights_RV.sum(dim=1).clamp(min=1)
    return (gaps_RV - mean_R.float().unsqueeze(1)).abs()


def _gap_reaching(gaps_RV: Tensor, weights_RV: Tensor, target_R: Tensor) -> Tensor:
    """The smallest gap [R], float32, such that the tokens up to it weigh at least the row's target, at most its all.

    Exact, so both ways give the same. On a CPU, where looking at a result costs nothing, the few most likely tokens are
    tried first: of 49,152 on one core in 0.08 ms a row, where the selection among all takes 0.3 and a sort 2.7.
    """
    if gaps_RV.device.type != "cpu":
        return _select(gaps_RV, weights_RV, target_R)
    few = min(_FEW, gaps_RV.shape[1])
    gaps_RF, ids_RF = gaps_RV.topk(few, dim=1, largest=False)
    running_RF = weights_RV.gather(1, ids_RF).cumsum(dim=1)
    found_R1 = torch.searchsorted(running_RF, target_R.unsqueeze(1))
    gap_R = gaps_RF.gather(1, found_R1.clamp(max=few - 1)).squeeze(1)
    open_rows = (found_R1.squeeze(1) == few).nonzero().squeeze(1)
    if open_rows.numel():
        gap_R[open_rows] = _select(gaps_RV[open_rows], weights_RV[open_rows], target_R[open_rows])
    return gap_R


def _select(gaps_RV: Tensor, weights_RV: Tensor, target_R: Tensor) -> Tensor:
    """`_gap_reaching` by radix: one histogram finds the high half of the gap's bits, a second one the low half.

    The bits of floats that are not negative sort as the floats do. Linear in V, and the host waits for nothing.
    """
    codes_RV = gaps_RV.view(torch.int32).long()
    high_RV = codes_RV >> _LOW_BITS
    high_R1, before_R1 = _bucket_reaching(high_RV, weights_RV, target_R.unsqueeze(1))
    inside_RV = torch.where(high_RV == high_R1, weights_RV, 0)
    low_RV = codes_RV & ((1 << _LOW_BITS) - 1)
    low_R1, _ = _bucket_reaching(low_RV, inside_RV, target_R.unsqueeze(1) - before_R1)
    return ((high_R1 << _LOW_BITS) | low_R1).int().view(torch.float32).squeeze(1)


def _bucket_reaching(buckets_RV: Tensor, weights_RV: Tensor, target_R1: Tensor) -> tuple[Tensor, Tensor]:
    """The first bucket [R, 1] up to which the weights reach the target, and the weight [R, 1] before that bucket."""
    histogram_RB = weights_RV.new_zeros(weights_RV.shape[0], _NUM_BUCKETS)
    histogram_RB.scatter_add_(1, buckets_RV, weights_RV)
    running_RB = histogram_RB.cumsum(dim=1)
    bucket_R1 = torch.searchsorted(running_RB, target_R1)
    return bucket_R1, running_RB.gather(1, bucket_R1) - histogram_RB.gather(1, bucket_R1)
