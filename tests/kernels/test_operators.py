"""The kernels as torch operators: what they say of themselves is what they do, and a trace passes through them."""

from ctypes import addressof

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.library import opcheck

from model.attention.base import StepTensors
from model.attention.cpu import CpuAttention
from model.kernels.cpu import operators
from model.kernels.cpu.layers import CpuLayers, CpuLinear
from model.kernels.cpu.layout import interleaved_rows, pack
from model.kernels.cpu.structs import ChoicesArguments, MasksArguments
from model.penalties import forbidding_table
from tests.kernels.levels import kernels, needs_kernels
from tests.kernels.test_packed_models import packed, prompt, stepper
from tests.model_steps import Row, Stepper

pytestmark = needs_kernels
OWN = "plain"


@pytest.fixture
def used() -> Stepper:
    """A small model with some tokens in its cache."""
    own = kernels(OWN)
    ours = stepper(packed("grouped queries", own), own)
    ours.step([Row(0, prompt(5)), Row(1, prompt(3))])
    return ours


def next_step(ours: Stepper) -> StepTensors:
    """A token of one row, two of the other."""
    return ours.tensors([Row(0, prompt(1, seed=2)), Row(1, prompt(2, seed=3))])


def test_products_and_embeddings():
    own = kernels(OWN)
    weight = pack(own, torch.randn(50, 40), "int8", interleaved_rows(50))
    linear = CpuLinear(own, weight, epilogue="gated")
    address = addressof(linear.arguments)
    opcheck(operators.linear, (torch.randn(3, 40), own.address, address, linear.num_outputs))
    opcheck(operators.embed, (torch.tensor([3, 1, 3]), own.address, address, 40))


def test_attention(used):
    step = next_step(used)
    config, backend = used.model.config, used.backend
    assert isinstance(backend, CpuAttention)
    q, k, v = (torch.randn(3, heads, config.head_dim) for heads in (6, 2, 2))
    addresses = kernels(OWN).address, addressof(backend.heads[1]), addressof(step.plan.rows)
    opcheck(operators.attend, (q, k, v, step.write_T, backend.cache, *addresses))


def test_all_layers(used):
    step, backend = next_step(used), used.backend
    assert isinstance(backend, CpuAttention)
    (layers,) = used.model.layers
    assert isinstance(layers, CpuLayers)
    rotation = used.model.rope.rotation(step.positions_T, torch.float32)
    tensors = torch.randn(3, 48), rotation.cos_T1D, rotation.sin_T1D, step.write_T, backend.cache
    addresses = addressof(layers.arguments), addressof(backend.heads), 3, addressof(step.plan.rows)
    opcheck(operators.layers, (*tensors, kernels(OWN).address, *addresses))


def test_sampling():
    own = kernels(OWN)
    logits = torch.randn(2, 30)
    columns = {
        "temperature": np.ones(2, dtype=np.float32),
        "top_k": np.full(2, 30),
        "top_p": np.ones(2),
        "min_p_gap": np.full(2, np.inf, dtype=np.float32),
        "typical_p": np.ones(2),
        "uniform": np.array([0.1, 0.9]),
    }
    pointers = {name: column.ctypes.data for name, column in columns.items()}
    choices = ChoicesArguments(num_rows=2, vocab_size=30, **pointers)
    opcheck(operators.choose, (logits, own.address, addressof(choices)))
    rows, bits = np.array([1]), np.full((1, 4), 0x55, dtype=np.uint8)
    masks = MasksArguments(num_masked=1, vocab_size=30, num_bytes=4, rows=rows.ctypes.data, bits=bits.ctypes.data)
    opcheck(operators.forbid, (logits, forbidding_table(torch.device("cpu")), own.address, addressof(masks)))


@pytest.mark.parametrize("weight_format", ["bfloat16", "int4"])
def test_packing(weight_format):
    weight, rows = torch.randn(16, 32), torch.arange(16)
    lines = torch.zeros(1, 4 if weight_format == "int4" else 16, 64, dtype=torch.uint8)
    scale = torch.zeros(1, 1, 16, dtype=torch.bfloat16) if weight_format == "int4" else None
    opcheck(operators.pack, (weight, rows, lines, scale, weight_format, kernels(OWN).address))


@torch.inference_mode()
def test_a_step_is_traced_without_being_computed(used):
    step, backend = next_step(used), used.backend
    before = as_bytes(backend.cache).clone()
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = StepTensors(*map(mode.from_tensor, (step.token_ids_T, step.positions_T, step.write_T)), step.plan)
        hidden = used.model(fake, backend)
        logits = used.model.logits(hidden)
    assert (hidden.shape, hidden.dtype) == ((3, 48), torch.float32)
    assert (logits.shape, logits.dtype) == ((3, 96), torch.float32)
    assert as_bytes(backend.cache).equal(before)
    assert used.model.logits(used.model(step, backend)).isfinite().all()


def test_a_profile_names_them(used):
    step = next_step(used)
    with torch.profiler.profile() as profiler, torch.inference_mode():
        used.model.logits(used.model(step, used.backend))
    names = {event.key for event in profiler.key_averages()}
    assert {f"nexttoken::{name}" for name in ("embed", "layers", "linear")} <= names


def as_bytes(cache: Tensor) -> Tensor:
    """For comparison where NaN stands for what was never written."""
    return cache.view(torch.uint8)
