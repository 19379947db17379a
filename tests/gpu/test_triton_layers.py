"""The small Triton kernels, interpreted, against torch's operations, and whole models on all of the kernels."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

pytest.importorskip("triton")
from model.attention.torch import TorchAttention
from model.attention.triton import TritonAttention
from model.config import ModelConfig
from model.kernels.triton.layers import gated, normed_sum, use_triton_layers
from model.kernels.triton.proof import use_if_proved
from model.kv_cache import KVCache
from model.layers.mlp import ACTIVATIONS
from model.layers.norm import RMSNorm
from model.runner import ModelRunner
from model.sampler import Sampler
from model.selfcheck import Probe
from model.transformer import Transformer
from tests.gpu.interpreted import CARD, CPU, TINY, config
from tests.model_steps import Row, Stepper

# numpy warns of an exponential that is infinite; a GPU, like torch, goes on with the infinity.
ignore_overflow = pytest.mark.filterwarnings("ignore:overflow encountered in exp")
# Not bfloat16: the interpreter does not round to it as a GPU does.
DTYPES = (torch.float32, torch.float16)


def random(*shape: int, seed: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    """A rounding of the dtype, or two: the kernels round once where torch rounds after each operation."""
    step = max(torch.finfo(dtype).eps, 4e-6)
    return {"atol": 3 * step, "rtol": 3 * step}


@settings(max_examples=25, deadline=None)
@given(rows=st.integers(1, 5), size=st.integers(1, 140), has_summand=st.booleans(), dtype=st.sampled_from(DTYPES))
def test_a_sum_and_its_norm_are_torchs(rows, size, has_summand, dtype):
    norm = RMSNorm(size, 1e-5, dtype, CPU)
    norm.weight.copy_(1 + 0.2 * random(size, seed=3, dtype=dtype))
    x, y = random(rows, size, seed=1, dtype=dtype), random(rows, size, seed=2, dtype=dtype)
    total = x + y if has_summand else x.clone()
    ours = normed_sum(x, y if has_summand else None, norm)
    assert x.equal(total)
    assert torch.allclose(ours.float(), norm(total).float(), **tolerance(dtype))


@ignore_overflow
@settings(max_examples=20, deadline=None)
@given(
    rows=st.integers(1, 3),
    size=st.sampled_from((1, 100, 1023, 1100)),
    activation=st.sampled_from(list(ACTIVATIONS)),
    dtype=st.sampled_from(DTYPES),
)
def test_a_gate_multiplies_its_up(rows, size, activation, dtype):
    gate_up = 3 * random(rows, 2 * size, seed=1, dtype=dtype)
    gate, up = gate_up.float().chunk(2, dim=1)
    expected = (ACTIVATIONS[activation](gate) * up).to(dtype)
    assert torch.allclose(gated(gate_up, activation).float(), expected.float(), **tolerance(dtype))


@ignore_overflow
def test_the_gate_is_right_where_the_exponential_is_not():
    gate = torch.tensor([[-200.0], [-88.5], [0.0], [60.0], [200.0]])
    expected = torch.nn.functional.silu(gate) * gate
    ours = gated(torch.cat((gate, gate), dim=1), "silu")
    assert torch.allclose(ours, expected, atol=1e-20)


def model_of(c: ModelConfig, dtype: torch.dtype) -> Transformer:
    model = Transformer(c, dtype, CPU)
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * parameter.shape[-1] ** -0.5)
    return model


def on_triton(stepper: Stepper) -> Stepper:
    """The same model and block tables, computed by the kernels."""
    c, cache = stepper.model.config, stepper.backend.cache
    ours = KVCache(c, cache.num_blocks, cache.block_size, stepper.model.dtype, CPU)
    for mine, theirs in zip(ours.layers, cache.layers, strict=True):
        for part, poisoned in zip(mine, theirs, strict=True):
            part.copy_(poisoned)
    use_triton_layers(stepper.model)
    stepper.backend = TritonAttention(c, ours, CARD, TINY)
    return stepper


STEPS = [
    [Row(3, list(range(1, 24)))],
    [Row(0, [7, 7, 7]), Row(3, [5]), Row(2, list(range(18)))],
    [Row(3, [1]), Row(2, [2]), Row(0, [3])],
    [Row(2, list(range(20))), Row(0, [4, 5, 6]), Row(3, [9])],
]


@pytest.mark.parametrize(
    ("changed", "dtype"),
    [
        pytest.param({}, torch.float32, id="float32"),
        pytest.param({}, torch.float16, id="float16"),
        pytest.param({"sliding_window": 11}, torch.float32, id="window"),
        pytest.param({"tie_embeddings": True, "qkv_bias": True, "mlp_bias": True, "output_bias": True}, torch.float32,
                     id="tied, biases"),
        pytest.param({"activation": "gelu_tanh"}, torch.float32, id="gelu"),
    ],
)  # fmt: skip
def test_a_model_on_the_kernels_equals_the_torch_reference(changed, dtype):
    c = dataclasses.replace(config(), **changed)
    reference, ours = Stepper(model_of(c, dtype), max_len=64), on_triton(Stepper(model_of(c, dtype), max_len=64))
    limit = 2e-4 if dtype == torch.float32 else 2e-2
    for rows in STEPS:
        for theirs, mine in zip(reference.step(rows), ours.step(rows), strict=True):
            assert torch.allclose(mine, theirs, atol=limit, rtol=limit)


@pytest.mark.parametrize("is_broken", [False, True])
def test_a_model_keeps_its_own_layers_where_the_kernels_do_not_compute_what_torch_does(is_broken):
    model = model_of(config(), torch.float32)
    probe = Probe(vocab_size=32, max_model_len=96, max_num_seqs=2, block_size=16)
    before = list(model.layers)

    def runner(backend: type) -> ModelRunner:
        cache = KVCache(model.config, probe.num_blocks, 16, torch.float32, CPU)
        attention = TorchAttention(model.config, cache)
        if backend is TritonAttention:
            attention = TritonAttention(model.config, cache, CARD, TINY)
            attention._window = 3 if is_broken else 0
        sampler = Sampler(2, 32, (), CPU)
        return ModelRunner(model, attention, sampler, max_num_seqs=2, max_model_len=96, block_size=16)

    check = use_if_proved(model, probe, lambda: runner(TorchAttention), lambda: runner(TritonAttention))
    assert check.is_used != is_broken
    assert (list(model.layers) == before) == is_broken
    assert isinstance(model.norm, RMSNorm) == is_broken
