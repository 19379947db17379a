"""Rotary positions and the write to the KV cache, in one pass over the merged projection.

Reference: model/layers/rope.py and KVCache.write.
"""

import triton
import triton.language as tl

from model.kernels.triton.fp8 import rounded

# H query heads, K kv heads, D head size; X heads of one program; P = D / 2 pairs, padded to a power of two


@triton.jit
def rotate_and_write(
    qkv,
    cosines,
    sines,
    write,
    keys,
    values,
    H: tl.constexpr,
    K: tl.constexpr,
    D: tl.constexpr,
    BLOCK_X: tl.constexpr,
    BLOCK_P: tl.constexpr,
    ROTATES: tl.constexpr,
):
    """Turns the query heads of qkv [T, H + 2K, D] in place, and writes turned keys and values at positions write_T.

    cosines and sines [T, D], as model.layers.rope.Rotation holds them; without ROTATES they are not read. A token
    whose position is -1, as padding's is, is not written. keys and values are of the dtype of qkv, or bytes of fp8.
    Programs: tokens, and runs of BLOCK_X heads.
    """
    token = tl.program_id(0).to(tl.int64)
    head_X = tl.program_id(1) * BLOCK_X + tl.arange(0, BLOCK_X)
    p = tl.arange(0, BLOCK_P)
    is_pair = p < D // 2
    is_number_XP = (head_X < H + 2 * K)[:, None] & is_pair[None, :]
    low_XP = qkv + (token * (H + 2 * K) + head_X)[:, None] * D + p[None, :]
    first_XP = tl.load(low_XP, mask=is_number_XP, other=0.0)
    second_XP = tl.load(low_XP + D // 2, mask=is_number_XP, other=0.0)
    if ROTATES:
        # Of the second half: the sines of the first are stored with the sign that the reference needs there.
        cos_P = tl.load(cosines + token * D + D // 2 + p, mask=is_pair, other=0.0).to(tl.float32)
        sin_P = tl.load(sines + token * D + D // 2 + p, mask=is_pair, other=0.0).to(tl.float32)
        is_turned_X1 = (head_X < H + K)[:, None]
        cos_XP = tl.where(is_turned_X1, cos_P[None, :], 1.0)
        sin_XP = tl.where(is_turned_X1, sin_P[None, :], 0.0)
        turned_XP = first_XP.to(tl.float32) * cos_XP - second_XP.to(tl.float32) * sin_XP
        second_XP = (second_XP.to(tl.float32) * cos_XP + first_XP.to(tl.float32) * sin_XP).to(first_XP.dtype)
        first_XP = turned_XP.to(first_XP.dtype)
        is_query_XP = (head_X < H)[:, None] & is_pair[None, :]
        tl.store(low_XP, first_XP, mask=is_query_XP)
        tl.store(low_XP + D // 2, second_XP, mask=is_query_XP)

    # A position of -1 leaves these below zero.
    key_X = tl.load(write + token) * K + head_X - H
    value_X = key_X - K
    is_key_XP = ((head_X >= H) & (head_X < H + K) & (key_X >= 0))[:, None] & is_pair[None, :]
    is_value_XP = ((head_X >= H + K) & (value_X >= 0))[:, None] & is_number_XP
    key_XP = keys + key_X[:, None] * D + p[None, :]
    value_XP = values + value_X[:, None] * D + p[None, :]
    first_XP = rounded(first_XP, keys.dtype.element_ty)
    second_XP = rounded(second_XP, keys.dtype.element_ty)
    tl.store(key_XP, first_XP, mask=is_key_XP)
    tl.store(key_XP + D // 2, second_XP, mask=is_key_XP)
    tl.store(value_XP, first_XP, mask=is_value_XP)
    tl.store(value_XP + D // 2, second_XP, mask=is_value_XP)
