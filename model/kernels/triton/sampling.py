"""Draws the next tokens, a program for each row, in a few passes over its logits and without sorting them.

Reference: model/sampler.py and model/truncation.py, as which it orders: top-k, top-p, min-p, typical-p, then a draw by
the row's random number. A token's gap is how far its logit lies below the largest, divided by the temperature; its
weight is a whole number, so that no sum depends on its order and the same logits always give the same token.
Exponentials differ from torch's in the last bits, and so a weight by about 1e-7 of itself: the token is the reference's
unless its random number, or the share of a top-p or typical-p, falls that near to the border between two tokens.
"""

# V vocabulary; n numbers of a list, B of a tile of it; E edges, codes of gaps

import triton
import triton.language as tl

NO_TOKEN = tl.constexpr(-2)
"""As in model/batch.py."""
FULL_WEIGHT = tl.constexpr(2.0**40)
"""Of the most likely token."""
MAX_GAP = tl.constexpr(100.0)
"""Beyond it every weight is 0."""
COLUMNS = tl.constexpr(6)
"""float64 of a row: temperature, or 0 for the most likely token; top-k; top-p; gap of min-p; typical-p; its number."""
STAGES = tl.constexpr(5)
"""Tiles on their way: a row is read by one processor, which would wait for each of them."""
END_CODE = tl.constexpr(0x7F800001)
"""Comes after the bits of infinity."""


@triton.jit
def choose(logits, scratch, ids, columns, token_ids, V: tl.constexpr, BLOCK: tl.constexpr):
    """token_ids_R int64, NO_TOKEN for rows that hold a NaN or allow no token. Programs: rows.

    logits float32 [R, V] are overwritten, and so are scratch, float32, and ids, int32, of the same shape.
    """
    row = tl.program_id(0).to(tl.int64)
    column = columns + row * COLUMNS
    temperature = tl.load(column).to(tl.float32)
    top, token = _most_likely(logits + row * V, V, BLOCK)
    token = tl.where(top > float("-inf"), token, NO_TOKEN)
    if (top > float("-inf")) & (temperature > 0.0):
        token = _draw(logits + row * V, scratch + row * V, ids + row * V, column, top, temperature, V, BLOCK)
    tl.store(token_ids + row, token.to(tl.int64))


@triton.jit
def _most_likely(logits, V: tl.constexpr, BLOCK: tl.constexpr):
    """The largest logit, NaN where any is, and its token, of equal ones the lowest."""
    best_B = tl.full((BLOCK,), float("-inf"), tl.float32)
    token_B = tl.full((BLOCK,), V, tl.int32)
    is_nan_B = tl.zeros((BLOCK,), tl.int32)
    for start in tl.range(0, V, BLOCK, num_stages=STAGES):
        i = start + tl.arange(0, BLOCK)
        logit_B = tl.load(logits + i, mask=i < V, other=float("-inf"))
        is_nan_B |= (logit_B != logit_B).to(tl.int32)
        token_B = tl.where(logit_B > best_B, i, token_B)
        best_B = tl.where(logit_B > best_B, logit_B, best_B)
    top = tl.max(best_B, 0)
    token = tl.min(tl.where(best_B == top, token_B, V), 0)
    return tl.where(tl.max(is_nan_B, 0) > 0, float("nan"), top), token


@triton.jit
def _draw(gaps, scratch, ids, column, top, temperature, V: tl.constexpr, BLOCK: tl.constexpr):
    """The token of a row whose logits stand where its gaps will."""
    top_k = tl.load(column + 1).to(tl.int64)
    top_p = tl.load(column + 2)
    min_p_gap = tl.load(column + 3).to(tl.float32)
    typical_p = tl.load(column + 4)
    count_E, weight_E = _write_gaps(gaps, top, temperature, V, BLOCK)
    total = tl.max(weight_E, 0)

    # What the first truncation leaves lies before one of the edges: all else is done with these few tokens.
    if top_k < V:
        is_enough_E = count_E >= top_k
    elif top_p < 1.0:
        is_enough_E = weight_E >= _share(total, top_p)
    else:
        is_enough_E = _edges() > min_p_gap.to(tl.int32, bitcast=True)
    end_code = tl.min(tl.where(is_enough_E, _edges(), END_CODE), 0)
    n = tl.full((), V, tl.int32)
    if end_code < END_CODE:
        n = _keep_between(gaps, gaps, ids, n, 0.0, 0, end_code, True, BLOCK)

    cut = tl.full((), float("inf"), tl.float32)
    mean = tl.full((), 0.0, tl.float32)
    surprise_cut = tl.full((), float("inf"), tl.float32)
    if top_k < V:
        cut = _measure_reaching(gaps, scratch, ids, n, mean, cut, top_k, True, BLOCK)
        total = _total(gaps, n, cut, mean, surprise_cut, False, BLOCK)
    if top_p < 1.0:
        cut = _measure_reaching(gaps, scratch, ids, n, mean, cut, _share(total, top_p), False, BLOCK)
    cut = tl.minimum(cut, min_p_gap)
    if cut < float("inf"):
        total = _total(gaps, n, cut, mean, surprise_cut, False, BLOCK)
    if typical_p < 1.0:
        weighed = _total(gaps, n, cut, mean, surprise_cut, True, BLOCK)
        mean = (weighed.to(tl.float64) / total.to(tl.float64)).to(tl.float32)
        surprise_cut = _measure_reaching(gaps, scratch, ids, n, mean, cut, _share(total, typical_p), False, BLOCK)
        total = _total(gaps, n, cut, mean, surprise_cut, False, BLOCK)

    target = (tl.load(column + 5) * total.to(tl.float64)).to(tl.int64)
    token = _place_beyond(gaps, n, cut, mean, surprise_cut, target, BLOCK)
    if end_code < END_CODE:
        token = tl.load(ids + token)
    return token


@triton.jit
def _edges():
    """2, 4, 8 and what comes after infinity."""
    e = tl.arange(0, 4)
    return tl.where(e == 3, END_CODE, 0x40000000 + 0x800000 * e)


@triton.jit
def _share(total, p):
    """What tokens must weigh to be the share `p` of all. Counted from the total, which float64 may round."""
    return tl.maximum(total - ((1.0 - p) * total.to(tl.float64)).to(tl.int64), 1)


@triton.jit
def _weights(gap_B, cut):
    return tl.where(gap_B <= cut, (tl.exp(-gap_B) * FULL_WEIGHT).to(tl.int64), 0)


@triton.jit
def _codes(gap_B, mean):
    """The bits of what a truncation goes by, which sort as the numbers do: |gap - mean|, the gap itself for mean 0."""
    return tl.abs(gap_B - mean).to(tl.int32, bitcast=True)


@triton.jit
def _write_gaps(logits, top, temperature, V: tl.constexpr, BLOCK: tl.constexpr):
    """Puts gaps where the logits are. Returns how many there are before each edge, and what they weigh."""
    count_BE = tl.zeros((BLOCK, 4), tl.int32)
    weight_BE = tl.zeros((BLOCK, 4), tl.int64)
    for start in tl.range(0, V, BLOCK, num_stages=STAGES):
        i = start + tl.arange(0, BLOCK)
        gap_B = tl.div_rn(top - tl.load(logits + i, mask=i < V, other=float("-inf")), temperature)
        # An infinite logit minus itself is no number: that token is a most likely one.
        gap_B = tl.where(gap_B == gap_B, gap_B, 0.0)
        tl.store(logits + i, gap_B, mask=i < V)
        is_before_BE = (i < V)[:, None] & (_codes(gap_B, 0.0)[:, None] < _edges()[None, :])
        count_BE += is_before_BE.to(tl.int32)
        weight_BE += tl.where(is_before_BE, _weights(gap_B, float("inf"))[:, None], 0)
    tl.debug_barrier()
    return tl.sum(count_BE, 0), tl.sum(weight_BE, 0)


@triton.jit
def _left(gaps, i, n, cut, mean, surprise_cut):
    """Gaps, and what is left of their weights."""
    gap_B = tl.load(gaps + i, mask=i < n, other=float("inf"))
    return gap_B, tl.where(tl.abs(gap_B - mean) <= surprise_cut, _weights(gap_B, cut), 0)


@triton.jit
def _total(gaps, n, cut, mean, surprise_cut, TIMES_GAP: tl.constexpr, BLOCK: tl.constexpr):
    """The sum of the weights that are left, or of their products with the gaps, rounded to whole numbers."""
    sum_B = tl.zeros((BLOCK,), tl.int64)
    for start in tl.range(0, n, BLOCK, num_stages=STAGES):
        gap_B, weight_B = _left(gaps, start + tl.arange(0, BLOCK), n, cut, mean, surprise_cut)
        if TIMES_GAP:
            weight_B = (weight_B.to(tl.float64) * tl.minimum(gap_B, MAX_GAP).to(tl.float64)).to(tl.int64)
        sum_B += weight_B
    return tl.sum(sum_B, 0)


@triton.jit
def _place_beyond(gaps, n, cut, mean, surprise_cut, target, BLOCK: tl.constexpr):
    """The first place up to which the weights that are left exceed the target, which is less than all of them."""
    running = tl.full((), 0, tl.int64)
    place = tl.full((), 0, tl.int32)
    for start in tl.range(0, n, BLOCK, num_stages=STAGES):
        weight_B = _left(gaps, start + tl.arange(0, BLOCK), n, cut, mean, surprise_cut)[1]
        reached = running + tl.sum(weight_B, 0)
        if (running <= target) & (target < reached):
            place = start + tl.sum((running + tl.cumsum(weight_B, 0) <= target).to(tl.int32), 0)
        running = reached
    return place


@triton.jit
def _measure_reaching(gaps, scratch, ids, n, mean, cut, target, COUNTS: tl.constexpr, BLOCK: tl.constexpr):
    """The smallest |gap - mean| such that the tokens up to it weigh, or with COUNTS are, at least `target`.

    A search for its code: each round weighs what lies before each of four edges between two codes, and keeps, in the
    scratch, what lies between the two nearest. So most of its rounds read next to nothing.
    """
    low = tl.full((), 0, tl.int32)
    high = tl.full((), END_CODE, tl.int32)
    before = tl.full((), 0, tl.int64)
    edge_E = _edges()
    numbers = gaps
    while high - low > 1:
        reached_E = before + _weigh_before(numbers, n, mean, cut, edge_E, COUNTS, BLOCK)
        is_short_E = reached_E < target
        before = tl.max(tl.where(is_short_E, reached_E, before), 0)
        low = tl.max(tl.where(is_short_E, edge_E, low), 0)
        high = tl.min(tl.where(is_short_E, high, edge_E), 0)
        n = _keep_between(numbers, scratch, ids, n, mean, low, high, False, BLOCK)
        numbers = scratch
        edge_E = tl.minimum(low + (high - low + 3) // 4 * (tl.arange(0, 4) + 1), high)
    return low.to(tl.float32, bitcast=True)


@triton.jit
def _weigh_before(numbers, n, mean, cut, edge_E, COUNTS: tl.constexpr, BLOCK: tl.constexpr):
    sum_BE = tl.zeros((BLOCK, 4), tl.int64)
    for start in tl.range(0, n, BLOCK, num_stages=STAGES):
        i = start + tl.arange(0, BLOCK)
        gap_B = tl.load(numbers + i, mask=i < n, other=float("inf"))
        weight_B = (i < n).to(tl.int64) if COUNTS else _weights(gap_B, cut)
        sum_BE += tl.where(_codes(gap_B, mean)[:, None] < edge_E[None, :], weight_B[:, None], 0)
    return tl.sum(sum_BE, 0)


@triton.jit
def _keep_between(numbers, kept, ids, n, mean, low, high, WRITES_IDS: tl.constexpr, BLOCK: tl.constexpr):
    """Writes the numbers whose code is from low up to high, in order, and their places. Returns how many they are.

    `kept` may be what is read: a tile is read before any of it, or of what is before it, is written.
    """
    count = tl.full((), 0, tl.int32)
    for start in tl.range(0, n, BLOCK, num_stages=STAGES):
        i = start + tl.arange(0, BLOCK)
        gap_B = tl.load(numbers + i, mask=i < n, other=float("inf"))
        code_B = _codes(gap_B, mean)
        is_kept_B = (i < n) & (code_B >= low) & (code_B < high)
        place_B = count + tl.cumsum(is_kept_B.to(tl.int32), 0) - 1
        tl.debug_barrier()
        tl.store(kept + place_B, gap_B, mask=is_kept_B)
        if WRITES_IDS:
            tl.store(ids + place_B, i, mask=is_kept_B)
        count += tl.sum(is_kept_B.to(tl.int32), 0)
    tl.debug_barrier()
    return count
