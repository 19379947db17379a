"""The torch back end against attention written out, over any mix of rows, and over devices that aren't there."""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from model.attention import torch as torch_attention
from model.attention.base import StepTensors
from model.attention.torch import TorchAttention
from model.config import ModelConfig
from model.errors import NotEnoughMemory
from model.kv_cache import KVCache, bytes_per_block
from model.transformer import Transformer
from tests.small_config import small_config

CPU = torch.device("cpu")
BLOCK = 4


def config(window: int | None = None) -> ModelConfig:
    return small_config(max_position_embeddings=512, sliding_window=window)


def written_out(q_SHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, window: int | None) -> Tensor:
    """Attention of the last S positions over all N, in float64. Returns o_SHD."""
    S, H, D = q_SHD.shape
    N, K, _ = k_NKD.shape
    k_NHD, v_NHD = (x.double().repeat_interleave(H // K, dim=1) for x in (k_NKD, v_NKD))
    scores_HSN = torch.einsum("shd,nhd->hsn", q_SHD.double(), k_NHD) / D**0.5
    age_SN = torch.arange(N - S, N)[:, None] - torch.arange(N)
    is_hidden = (age_SN < 0) | (age_SN >= (window or N))
    weights_HSN = scores_HSN.masked_fill(is_hidden, -torch.inf).softmax(-1)
    return torch.einsum("hsn,nhd->shd", weights_HSN, v_NHD).float()


@dataclass
class Step:
    """Random sequences, partly in a cache that is NaN elsewhere."""

    num_computed: list[int]
    num_new: list[int]
    window: int | None

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(3)
        lengths = [c + n for c, n in zip(self.num_computed, self.num_new, strict=True)]
        self.k = [torch.randn(n, 2, 8, generator=generator) for n in lengths]
        self.v = [torch.randn(n, 2, 8, generator=generator) for n in lengths]
        self.q = [torch.randn(n, 4, 8, generator=generator) for n in self.num_new]
        blocks_each = -(-max(lengths) // BLOCK)
        num_blocks = len(lengths) * blocks_each
        self.cache = KVCache(config(), num_blocks, BLOCK, torch.float32, CPU)
        for keys, values in self.cache.layers:
            keys.fill_(torch.nan)
            values.fill_(torch.nan)
        self.tables = np.random.default_rng(0).permutation(num_blocks).astype(np.int32).reshape(-1, blocks_each)
        for r, num_computed in enumerate(self.num_computed):
            self.cache.write(1, self.flat(r, 0, num_computed), self.k[r][:num_computed], self.v[r][:num_computed])

    def flat(self, row: int, start: int, stop: int) -> Tensor:
        positions = np.arange(start, stop)
        return torch.from_numpy(self.tables[row, positions // BLOCK].astype(np.int64) * BLOCK + positions % BLOCK)

    def attend(self) -> list[Tensor]:
        backend = TorchAttention(config(self.window), self.cache)
        rows = range(len(self.num_new))
        ends = [c + n for c, n in zip(self.num_computed, self.num_new, strict=True)]
        write_T = torch.cat([self.flat(r, self.num_computed[r], ends[r]) for r in rows])
        plan = backend.plan(np.arange(len(rows)), np.array(self.num_computed), np.array(self.num_new), self.tables)
        step = StepTensors(token_ids_T=write_T, positions_T=write_T, write_T=write_T, plan=plan)
        new_k = torch.cat([self.k[r][self.num_computed[r] :] for r in rows])
        new_v = torch.cat([self.v[r][self.num_computed[r] :] for r in rows])
        return list(backend.attend(1, torch.cat(self.q), new_k, new_v, step).split(self.num_new))

    def expected(self) -> list[Tensor]:
        return [written_out(q, k, v, self.window) for q, k, v in zip(self.q, self.k, self.v, strict=True)]


ROWS = st.lists(st.tuples(st.integers(0, 300), st.sampled_from((1, 1, 1, 2, 7, 64))), min_size=1, max_size=16)


@settings(max_examples=60, deadline=None)
@given(
    rows=ROWS,
    window=st.sampled_from((None, 1, 5, 100)),
    bias_elements=st.sampled_from((2**24, 1000, 100)),
    group_bytes=st.sampled_from((2**22, 2**15)),
)
def test_any_mix_of_rows_equals_attention_written_out(rows, window, bias_elements, group_bytes):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_attention, "MAX_BIAS_ELEMENTS", bias_elements)
        patch.setattr(torch_attention, "MAX_GROUP_BYTES", {"cpu": group_bytes})
        step = Step([c for c, _ in rows], [n for _, n in rows], window)
        for ours, expected in zip(step.attend(), step.expected(), strict=True):
            assert torch.allclose(ours, expected, atol=1e-5)


def plan_of(num_computed: list[int], max_bytes: int = 2**22) -> list[int]:
    """Sizes of the decode groups of rows with these contexts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_attention, "MAX_GROUP_BYTES", {"cpu": max_bytes})
        num_blocks = max(num_computed) // BLOCK + 1
        backend = TorchAttention(config(), KVCache(config(), num_blocks, BLOCK, torch.float32, CPU))
        count = len(num_computed)
        tables = np.zeros((count, num_blocks), dtype=np.int32)
        plan = backend.plan(np.arange(count), np.array(num_computed), np.ones(count, dtype=np.int64), tables)
    return [group.read.numel() for group in plan.decode]


def test_short_rows_share_a_group_and_long_ones_are_not_padded_to_much_longer_ones():
    assert plan_of([5, 30, 90]) == [3 * 91]
    assert plan_of([999, 900, 10]) == [2 * 1000, 11]


def test_a_group_gathers_no_more_than_its_bound():
    bytes_per_key = bytes_per_block(config(), BLOCK, torch.float32) // (BLOCK * config().num_layers)
    assert plan_of([99] * 16, max_bytes=400 * bytes_per_key) == [400] * 4


def test_rows_of_one_length_need_no_bias():
    backend = TorchAttention(config(), KVCache(config(), 8, BLOCK, torch.float32, CPU))
    tables = np.arange(8, dtype=np.int32).reshape(2, 4)
    plan = backend.plan(np.array([0, 1]), np.array([9, 9]), np.array([1, 1]), tables)
    assert [group.bias_R11N for group in plan.decode] == [None]


def test_a_window_reads_only_the_positions_it_sees():
    backend = TorchAttention(config(window=6), KVCache(config(), 64, BLOCK, torch.float32, CPU))
    tables = np.arange(64, dtype=np.int32).reshape(1, 64)
    decode = backend.plan(np.array([0]), np.array([200]), np.array([1]), tables).decode[0]
    assert decode.read.tolist() == list(range(195, 201))
    prefill = backend.plan(np.array([0]), np.array([200]), np.array([3]), tables).prefill[0]
    assert prefill.read.tolist() == list(range(202, 194, -1))


def test_a_step_never_waits_for_the_device():
    """Traced with tensors that have a device but no contents: whatever asks for a value raises."""
    device = torch.device("cuda:0")
    with FakeTensorMode(), torch.inference_mode():
        model = Transformer(config(window=40), torch.bfloat16, device)
        cache = KVCache(config(), 64, BLOCK, torch.bfloat16, device)
        backend = TorchAttention(config(window=40), cache)
        num_new = np.array([1, 7, 1, 12, 1])
        plan = backend.plan(np.arange(5), np.array([30, 0, 45, 20, 2]), num_new, np.zeros((5, 16), dtype=np.int32))
        column = torch.zeros(int(num_new.sum()), dtype=torch.int64, device=device)
        logits = model.logits(model(StepTensors(column, column, column, plan), backend))
    assert logits.shape == (22, 32)
    assert logits.dtype == torch.float32


def test_cache_and_weights_that_do_not_fit_are_refused_with_their_size():
    with pytest.raises(NotEnoughMemory, match="GiB"):
        KVCache(config(), 2**40, 16, torch.float32, CPU)
    with pytest.raises(NotEnoughMemory, match="weights"):
        Transformer(dataclasses.replace(config(), vocab_size=2**24, hidden_size=2**20), torch.float32, CPU)


def test_other_devices_are_refused_with_the_reason():
    assert TorchAttention.supports(config(), CPU) is None
    assert TorchAttention.supports(config(), torch.device("cuda:0")) is None
    assert "mps" in str(TorchAttention.supports(config(), torch.device("mps")))
