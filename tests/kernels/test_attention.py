"""Our CPU attention against attention written out, and each query against itself in other company."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from model.attention.base import StepTensors
from model.attention.cpu import CpuAttention
from model.config import ModelConfig
from model.errors import NotEnoughMemory
from tests.kernels.levels import each_level, kernels, needs_kernels
from tests.small_config import small_config

pytestmark = needs_kernels
CPU = torch.device("cpu")
BLOCK = 32


def config(num_heads: int = 4, num_kv_heads: int = 2, head_dim: int = 8, window: int | None = None) -> ModelConfig:
    return small_config(num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim, sliding_window=window)


def written_out(q_NHD: Tensor, k_NKD: Tensor, v_NKD: Tensor, window: int | None) -> Tensor:
    """Causal attention of N positions over themselves, in float64. Returns o_NHD."""
    N, H, D = q_NHD.shape
    K = k_NKD.shape[1]
    k, v = (x.double().repeat_interleave(H // K, dim=1) for x in (k_NKD, v_NKD))
    scores_HSN = torch.einsum("shd,nhd->hsn", q_NHD.double(), k) / D**0.5
    age_SN = torch.arange(N)[:, None] - torch.arange(N)
    is_hidden = (age_SN < 0) | (age_SN >= (window or N))
    return torch.einsum("hsn,nhd->shd", scores_HSN.masked_fill(is_hidden, -torch.inf).softmax(-1), v).float()


@dataclass
class Cached:
    """Sequences that attend step by step through a cache that is NaN wherever nothing was written."""

    level: str
    config: ModelConfig
    lengths: list[int]
    dtype: torch.dtype = torch.float32
    num_threads: int = 1
    backend: CpuAttention = field(init=False)

    def __post_init__(self) -> None:
        c = self.config
        generator = torch.Generator().manual_seed(3)

        def random(n: int, heads: int) -> Tensor:
            return torch.randn(n, heads, c.head_dim, generator=generator)

        self.q = [random(n, c.num_heads) for n in self.lengths]
        self.k = [random(n, c.num_kv_heads) for n in self.lengths]
        self.v = [random(n, c.num_kv_heads) for n in self.lengths]
        blocks_each = -(-max(self.lengths) // BLOCK)
        num_blocks = len(self.lengths) * blocks_each
        self.backend = CpuAttention(kernels(self.level, self.num_threads), c, num_blocks, BLOCK, self.dtype)
        for keys, values in self.backend.layers:
            keys.fill_(torch.nan)
            values.fill_(torch.nan)
        order = np.random.default_rng(0).permutation(num_blocks).astype(np.int32)
        self.tables = order.reshape(-1, blocks_each)
        self.num_computed = [0] * len(self.lengths)

    def step(self, num_new: dict[int, int]) -> dict[int, Tensor]:
        """Computes that many tokens of each named sequence. Returns their o_SHD."""
        rows = list(num_new)
        starts = [self.num_computed[r] for r in rows]
        counts = [num_new[r] for r in rows]
        spans = [slice(s, s + n) for s, n in zip(starts, counts, strict=True)]
        positions = [np.arange(span.start, span.stop) for span in spans]
        write = [self.flat(r, p) for r, p in zip(rows, positions, strict=True)]
        plan = self.backend.plan(np.array(rows), np.array(starts), np.array(counts), self.tables)
        write_T = torch.from_numpy(np.concatenate(write))
        step = StepTensors(write_T, torch.from_numpy(np.concatenate(positions)), write_T, plan)
        q, k, v = (
            torch.cat([x[r][span] for r, span in zip(rows, spans, strict=True)]) for x in (self.q, self.k, self.v)
        )
        for r, n in num_new.items():
            self.num_computed[r] += n
        return dict(zip(rows, self.backend.attend(1, q, k, v, step).split_with_sizes(counts), strict=True))

    def flat(self, row: int, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.tables[row, positions // BLOCK].astype(np.int64) * BLOCK + positions % BLOCK

    def run(self, chunk: int, row: int = 0) -> Tensor:
        """One sequence by itself, `chunk` tokens at a time."""
        length = self.lengths[row]
        parts = [self.step({row: min(chunk, length - start)})[row] for start in range(0, length, chunk)]
        return torch.cat(parts)

    def expected(self, row: int) -> Tensor:
        k, v = (x[row].to(self.dtype).float() for x in (self.k, self.v))
        return written_out(self.q[row], k, v, self.config.sliding_window)


@each_level
@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 600), st.sampled_from((1, 1, 2, 7, 64))), min_size=1, max_size=8),
    heads=st.sampled_from(((4, 2, 8), (3, 1, 24), (6, 6, 16), (9, 3, 64), (32, 1, 2), (2, 1, 256))),
    window=st.sampled_from((None, 1, 5, 100, 300)),
    dtype=st.sampled_from((torch.float32, torch.bfloat16)),
    num_threads=st.sampled_from((1, 3)),
)
def test_any_mix_of_rows_equals_attention_written_out(level, rows, heads, window, dtype, num_threads):
    cached = Cached(level, config(*heads, window), [c + n for c, n in rows], dtype, num_threads)
    first = {r: num_computed for r, (num_computed, _) in enumerate(rows) if num_computed}
    before = cached.step(first) if first else {}
    after = cached.step({r: num_new for r, (_, num_new) in enumerate(rows)})
    for r, (num_computed, _) in enumerate(rows):
        expected = cached.expected(r)
        assert torch.allclose(after[r], expected[num_computed:], atol=2e-5)
        if num_computed:
            assert torch.allclose(before[r], expected[:num_computed], atol=2e-5)


@each_level
@pytest.mark.parametrize("window", [None, 70, 300])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_query_is_bitwise_the_same_however_its_prompt_is_cut(level, window, dtype):
    sequence = (level, config(9, 3, 64, window), [700], dtype)
    whole = Cached(*sequence).run(700)
    for chunk, num_threads in ((1, 1), (1, 4), (16, 4), (37, 2), (512, 1), (512, 4)):
        assert Cached(*sequence, num_threads).run(chunk).equal(whole), (chunk, num_threads)


@each_level
def test_a_query_is_bitwise_the_same_in_any_batch(level):
    lengths = [300, 40, 520, 1, 257, 90]
    alone = [Cached(level, config(), lengths, num_threads=2).run(10**6, row) for row in range(len(lengths))]
    together = Cached(level, config(), lengths, num_threads=2).step(dict(enumerate(lengths)))
    for row, expected in enumerate(alone):
        assert together[row].equal(expected)
    last = Cached(level, config(), lengths, num_threads=4)
    last.step({r: n - 1 for r, n in enumerate(lengths) if n > 1})
    for row, o_1HD in last.step(dict.fromkeys(range(len(lengths)), 1)).items():
        assert o_1HD.equal(alone[row][-1:])


@each_level
def test_large_scores_do_not_overflow(level):
    cached = Cached(level, config(), [300])
    cached.q = [300 * cached.q[0]]
    assert torch.allclose(cached.run(300), cached.expected(0), atol=1e-4)


def test_what_the_kernels_can_not_take_is_refused_with_the_reason():
    assert CpuAttention.supports(config(), CPU) is None
    assert "cuda" in str(CpuAttention.supports(config(), torch.device("cuda:0")))
    assert "512" in str(CpuAttention.supports(config(head_dim=512), CPU))
    assert "32" in str(CpuAttention.supports(config(64, 1), CPU))
    assert "8" in str(CpuAttention.supports_cache(8, torch.float32))
    assert "float16" in str(CpuAttention.supports_cache(16, torch.float16))
    assert CpuAttention.supports_cache(16, torch.bfloat16) is None


def test_a_cache_that_does_not_fit_is_refused_with_its_size():
    with pytest.raises(NotEnoughMemory, match="GiB"):
        CpuAttention(kernels("plain"), config(), 2**40, 16, torch.float32)


@each_level
def test_a_query_whose_scores_are_all_minus_infinity_gets_no_numbers(level):
    cached = Cached(level, config(), [BLOCK + 5])
    cached.q[0].fill_(-1)
    cached.k[0].fill_(torch.inf)
    assert cached.run(chunk=8).isnan().all()
