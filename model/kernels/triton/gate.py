"""activation(gate) * up in one pass. Reference: model/layers/mlp.py."""

import triton
import triton.language as tl

# F inner size of the feed-forward half


@triton.jit
def gate(gate_up, out, F: tl.constexpr, ACTIVATION: tl.constexpr, BLOCK_F: tl.constexpr):
    """out_TF from gate_up [T, 2F], both gates first; in float32 between. Programs: rows, and runs of BLOCK_F."""
    row = tl.program_id(0).to(tl.int64)
    f = tl.program_id(1) * BLOCK_F + tl.arange(0, BLOCK_F)
    gate_F = tl.load(gate_up + row * 2 * F + f, mask=f < F, other=0.0).to(tl.float32)
    up_F = tl.load(gate_up + row * 2 * F + F + f, mask=f < F, other=0.0).to(tl.float32)
    if ACTIVATION == "silu":
        gate_F = gate_F * tl.sigmoid(gate_F)
    elif ACTIVATION == "gelu":
        gate_F = 0.5 * gate_F * (1.0 + tl.erf(gate_F * 0.7071067811865476))
    elif ACTIVATION == "gelu_tanh":
        # (1 + tanh(u)) / 2 is the logistic function of 2u.
        cubic_F = gate_F + 0.044715 * gate_F * gate_F * gate_F
        gate_F = gate_F * tl.sigmoid(1.5957691216057308 * cubic_F)
    else:
        tl.static_assert(ACTIVATION == "relu")
        gate_F = tl.maximum(gate_F, 0.0)
    tl.store(out + row * F + f, (gate_F * up_F).to(out.dtype.element_ty), mask=f < F)
