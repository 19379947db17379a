"""Paged attention on a GPU: pieces of work that each hold some queries against a run of cached keys.

Reference: model/attention/torch.py. The online softmax is that of Dao, "FlashAttention-2", 2023; splitting a long
context over programs and merging what they found is Flash-Decoding (Dao et al. 2023).

M query rows of a piece, token by token and within a token the G query heads of one kv head, so that a key is read
once for all of them; N keys read together; D head size, padded to a power of two; H query heads, K kv heads.
"""

import triton
import triton.language as tl

from model.kernels.triton.fp8 import widened

PIECE_FIELDS = tl.constexpr(8)
"""int32 of one piece: see model/attention/pieces.py, which makes them."""
MERGE_FIELDS = tl.constexpr(4)


@triton.jit
def attend(
    q,
    keys,
    values,
    tables,
    pieces,
    num_pieces,
    out,
    partial,
    partial_lse,
    SCALE: tl.constexpr,
    H: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
    Q_STRIDE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    IS_SPLIT: tl.constexpr,
):
    """Writes out_THD or, where contexts are split, what `merge` makes it of: each piece's own result and weight.

    q [T, Q_STRIDE], of which the first H * D are query heads; keys and values [positions, K, D], in the dtype of q or
    the bytes of fp8; tables int32, the block ids of the rows one after the other; SCALE in units of log2(e); WINDOW 0
    for none.
    The number of programs is free, for they take pieces in turn until `num_pieces`, which is read on the device: a
    launch recorded in a CUDA graph serves steps of any length.
    """
    for item in tl.range(tl.program_id(0), tl.load(num_pieces) * K, tl.num_programs(0)):
        _attend_piece(
            q,
            keys,
            values,
            tables,
            pieces + (item // K) * PIECE_FIELDS,
            item % K,
            out,
            partial,
            partial_lse,
            SCALE,
            H,
            K,
            D,
            Q_STRIDE,
            BLOCK_SIZE,
            WINDOW,
            BLOCK_M,
            BLOCK_N,
            BLOCK_D,
            IS_SPLIT,
        )


@triton.jit
def _attend_piece(
    q,
    keys,
    values,
    tables,
    piece,
    head,
    out,
    partial,
    partial_lse,
    SCALE: tl.constexpr,
    H: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
    Q_STRIDE: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    WINDOW: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
    IS_SPLIT: tl.constexpr,
):
    G: tl.constexpr = H // K
    first_token = tl.load(piece)
    num_tokens = tl.load(piece + 1)
    first_position = tl.load(piece + 2)
    table = tables + tl.load(piece + 3)
    first_key = tl.load(piece + 4)
    end_key = tl.load(piece + 5)

    token_M = tl.arange(0, BLOCK_M) // G
    head_M = head * G + tl.arange(0, BLOCK_M) % G
    d = tl.arange(0, BLOCK_D)
    is_query_MD = (token_M < num_tokens)[:, None] & (d < D)[None, :]
    q_rows = q + (first_token + token_M).to(tl.int64)[:, None] * Q_STRIDE
    q_MD = tl.load(q_rows + head_M[:, None] * D + d[None, :], mask=is_query_MD, other=0.0)
    position_M = first_position + token_M

    max_M = tl.full((BLOCK_M,), float("-inf"), tl.float32)
    sum_M = tl.zeros((BLOCK_M,), tl.float32)
    acc_MD = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    # Tiles of keys lie at multiples of BLOCK_N in the sequence, wherever a chunk or a window begins: so a query adds
    # up its keys in one order however its prompt was cut.
    start = first_key // BLOCK_N * BLOCK_N
    # Up to here every query sees every key, and no score needs a mask.
    unmasked = start
    if WINDOW == 0:
        unmasked = tl.maximum(tl.minimum(first_position + 1, end_key) // BLOCK_N * BLOCK_N, start)
        for n in tl.range(start, unmasked, BLOCK_N):
            max_M, sum_M, acc_MD = _attend_tile(
                q_MD, keys, values, table, head, n, first_key, end_key, position_M, max_M, sum_M, acc_MD,
                SCALE, K, D, BLOCK_SIZE, WINDOW, BLOCK_N, BLOCK_D, False,
            )  # fmt: skip
    for n in tl.range(unmasked, end_key, BLOCK_N):
        max_M, sum_M, acc_MD = _attend_tile(
            q_MD, keys, values, table, head, n, first_key, end_key, position_M, max_M, sum_M, acc_MD,
            SCALE, K, D, BLOCK_SIZE, WINDOW, BLOCK_N, BLOCK_D, True,
        )  # fmt: skip

    # A query of a split may have seen nothing there: zeros, and a weight of zero.
    sum_M = tl.where(sum_M == 0.0, 1.0, sum_M)
    acc_MD = acc_MD / sum_M[:, None]
    if IS_SPLIT:
        first_partial = tl.load(piece + 6)
        stride = tl.load(piece + 7)
        row_M = (first_partial + token_M * stride).to(tl.int64) * H + head_M
        lse_M = max_M * SCALE + tl.log2(sum_M)
        tl.store(partial_lse + row_M, lse_M, mask=token_M < num_tokens)
        tl.store(partial + row_M[:, None] * D + d[None, :], acc_MD, mask=is_query_MD)
    else:
        row_M = (first_token + token_M).to(tl.int64) * H + head_M
        tl.store(out + row_M[:, None] * D + d[None, :], acc_MD.to(out.dtype.element_ty), mask=is_query_MD)


@triton.jit
def _attend_tile(
    q_MD, keys, values, table, head, start, first_key, end_key, position_M, max_M, sum_M, acc_MD,
    SCALE: tl.constexpr, K: tl.constexpr, D: tl.constexpr, BLOCK_SIZE: tl.constexpr, WINDOW: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr, IS_MASKED: tl.constexpr,
):  # fmt: skip
    """One step of the online softmax. Both ways of masking do the same arithmetic on the scores that are seen."""
    d = tl.arange(0, BLOCK_D)
    position_N = start + tl.arange(0, BLOCK_N)
    # What the sequence has not written may be NaN, which a weight of zero would not undo.
    is_key_N = (position_N >= first_key) & (position_N < end_key) if IS_MASKED else position_N >= 0
    block_N = tl.load(table + position_N // BLOCK_SIZE, mask=is_key_N, other=0).to(tl.int64)
    row_N = (block_N * BLOCK_SIZE + position_N % BLOCK_SIZE) * (K * D) + head * D

    k_DN = tl.load(keys + row_N[None, :] + d[:, None], mask=is_key_N[None, :] & (d < D)[:, None], other=0.0)
    score_MN = tl.dot(q_MD, widened(k_DN, q_MD.dtype), input_precision="ieee")
    if IS_MASKED:
        age_MN = position_M[:, None] - position_N[None, :]
        is_seen_MN = (age_MN >= 0) & is_key_N[None, :]
        if WINDOW > 0:
            is_seen_MN = is_seen_MN & (age_MN < WINDOW)
        score_MN = tl.where(is_seen_MN, score_MN, float("-inf"))

    new_max_M = tl.maximum(max_M, tl.max(score_MN, 1))
    shift_M = tl.where(new_max_M == float("-inf"), 0.0, new_max_M) * SCALE
    weight_MN = tl.exp2(tl.fma(score_MN, SCALE, -shift_M[:, None]))
    rescale_M = tl.exp2(tl.fma(max_M, SCALE, -shift_M))
    v_ND = tl.load(values + row_N[:, None] + d[None, :], mask=is_key_N[:, None] & (d < D)[None, :], other=0.0)
    v_ND = widened(v_ND, q_MD.dtype)
    acc_MD = tl.dot(weight_MN.to(v_ND.dtype), v_ND, acc_MD * rescale_M[:, None], input_precision="ieee")
    return new_max_M, sum_M * rescale_M + tl.sum(weight_MN, 1), acc_MD


@triton.jit
def merge(
    partial,
    partial_lse,
    merges,
    out,
    H: tl.constexpr,
    D: tl.constexpr,
    BLOCK_D: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
):
    """Writes out_THD for the tokens of split rows: one program for each token and head.

    merges int32 [tokens, 4]: the token's place in the step, its first partial result, and their number, which is 0 for
    a token of padding: it gets zeros.
    """
    entry = merges + tl.program_id(0).to(tl.int64) * MERGE_FIELDS
    head = tl.program_id(1)
    token = tl.load(entry).to(tl.int64)
    s = tl.arange(0, MAX_SPLITS)
    d = tl.arange(0, BLOCK_D)
    is_split_S = s < tl.load(entry + 2)
    row_S = (tl.load(entry + 1) + s).to(tl.int64) * H + head
    lse_S = tl.load(partial_lse + row_S, mask=is_split_S, other=float("-inf"))
    max_lse = tl.max(lse_S, 0)
    weight_S = tl.exp2(lse_S - tl.where(max_lse == float("-inf"), 0.0, max_lse))
    is_number_SD = is_split_S[:, None] & (d < D)[None, :]
    o_SD = tl.load(partial + row_S[:, None] * D + d[None, :], mask=is_number_SD, other=0.0)
    total = tl.sum(weight_S, 0)
    o_D = tl.sum(o_SD * weight_S[:, None], 0) / tl.where(total == 0.0, 1.0, total)
    tl.store(out + (token * H + head) * D + d, o_D.to(out.dtype.element_ty), mask=d < D)
