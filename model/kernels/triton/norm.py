"""The residual sum and the norm that follows it, in one pass. Reference: x + y, then model/layers/norm.py."""

import triton
import triton.language as tl

# E hidden size


@triton.jit
def add_norm(
    x, y, weight, out, EPS: tl.constexpr, E: tl.constexpr, BLOCK_E: tl.constexpr, HAS_SUMMAND: tl.constexpr
):  # fmt: skip
    """x_TE += y_TE, in place, and out_TE = the RMSNorm of the sum; without a summand, of x. One program for each row.

    The sum is rounded to the dtype of x before it is normalised, in float32, as the reference does.
    """
    e = tl.arange(0, BLOCK_E)
    row = tl.program_id(0).to(tl.int64) * E
    x_E = tl.load(x + row + e, mask=e < E, other=0.0)
    if HAS_SUMMAND:
        y_E = tl.load(y + row + e, mask=e < E, other=0.0)
        x_E = (x_E.to(tl.float32) + y_E.to(tl.float32)).to(x_E.dtype)
        tl.store(x + row + e, x_E, mask=e < E)
    x_E = x_E.to(tl.float32)
    scale = tl.rsqrt(tl.sum(x_E * x_E, 0) / E + EPS)
    weight_E = tl.load(weight + e, mask=e < E, other=0.0).to(tl.float32)
    tl.store(out + row + e, (x_E * scale * weight_E).to(out.dtype.element_ty), mask=e < E)
