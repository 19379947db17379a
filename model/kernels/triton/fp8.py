"""Numbers of the fp8 format e4m3, kept as bytes, to and from wider ones, by arithmetic that every card has.

Reference: KVCache in model/kv_cache.py. A byte is a sign, four bits of exponent with a bias of 7, three bits of
mantissa; there's no infinity, and the largest code of either sign is NaN (Micikevicius et al. 2022, table 1). Placed
where float32 has its exponent and mantissa, it is too small by 2 ** (127 - 7), denormal numbers included.
"""

import triton
import triton.language as tl


@triton.jit
def widened(x, dtype: tl.constexpr):
    """Numbers of a cache, in `dtype`: those of a cache of bytes are fp8, others are in it already."""
    if x.dtype == tl.uint8:
        # Widened with its sign, a byte has it in all bits above its seventh.
        bits = x.to(tl.int8, bitcast=True).to(tl.int32) << 20 & -0x78100000
        x = bits.to(tl.float32, bitcast=True) * 1.329227995784916e36
        x = tl.where(tl.abs(x) > 448.0, float("nan"), x)
    return x.to(dtype)


@triton.jit
def rounded(x, dtype: tl.constexpr):
    """Numbers of any float type for a cache of `dtype`: the bytes of the nearest fp8, ties to even, or x as it is.

    What is larger than 448 becomes that.
    """
    if dtype == tl.uint8:
        bits = x.to(tl.float32).to(tl.int32, bitcast=True)
        magnitude = tl.minimum(bits & 0x7FFFFFFF, 0x43E00000)
        # Adds just below half of the last bit that stays, and that bit: a tie becomes even. Exponents lose 120.
        normal = ((magnitude + 0x7FFFF + (magnitude >> 20 & 1)) >> 20) - (120 << 3)
        # At 2 ** 14 the last bit of a float32 is 2 ** -9, as is that of the denormal numbers.
        denormal = (magnitude.to(tl.float32, bitcast=True) + 16384.0).to(tl.int32, bitcast=True) & 0xF
        code = tl.where(magnitude < 0x3C800000, denormal, normal)
        code = tl.where((bits & 0x7FFFFFFF) > 0x7F800000, 0x7F, code)
        x = (code | (bits >> 24 & 0x80)).to(tl.uint8)
    return x
