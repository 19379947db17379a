"""Decode steps that are recorded and played back give what computing them anew gives: recorded on the CPU, as calls."""

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.attention.torch import TorchAttention
from model.batch import Batch, Join, SamplingParams
from model.graphs import MAX_ROWS, copy_into, ladder
from model.runner import ModelRunner
from model.selfcheck import NUM_DECODED, Probe
from model.stream import HostStream
from model.transformer import Transformer
from server.engine.engine import Engine
from server.engine.scheduler import SchedulerLimits
from tests.engine.generation import neighbours, run
from tests.recordable import DecodePlan, RecordableAttention
from tests.runner.small_model import BLOCK, CONFIG, MAX_MODEL_LEN, MAX_NUM_SEQS, NUM_BLOCKS, make_runner, random_model

PROBE = Probe(vocab_size=CONFIG.vocab_size, max_model_len=MAX_MODEL_LEN, max_num_seqs=MAX_NUM_SEQS, block_size=BLOCK)


class Recorder(HostStream):
    """Counts what is played, and says that each recording takes 10 bytes."""

    def __init__(self) -> None:
        self.num_recorded = self.num_played = 0

    def record(self, compute: Callable[[], None]) -> Callable[[], None]:
        play = super().record(compute)
        self.num_recorded += 1

        def count_and_play() -> None:
            self.num_played += 1
            play()

        return count_and_play

    def free_bytes(self) -> int:
        return 10_000 - 10 * self.num_recorded


@pytest.fixture(scope="module")
def model() -> Transformer:
    return random_model()


def record(runner: ModelRunner, max_bytes: int = 1000) -> int:
    return runner.record_graphs(NUM_BLOCKS, max_bytes, lambda fraction: None)


def engine(runner: ModelRunner) -> Engine:
    limits = SchedulerLimits(MAX_NUM_SEQS, 64, NUM_BLOCKS, BLOCK)
    return Engine(runner, limits, MAX_MODEL_LEN, frozenset(CONFIG.eos_token_ids))


def test_texts_are_those_of_steps_that_are_not_recorded(model):
    """Rows come and go, are preempted and of every length; each decode step is played, whatever its number of rows."""
    stream = Recorder()
    recorded, _ = make_runner(model, RecordableAttention, stream)
    assert record(recorded) == MAX_NUM_SEQS
    plain, _ = make_runner(model, TorchAttention, HostStream())
    assert record(plain) == 0
    requests = neighbours(18)
    first, second = engine(recorded), engine(plain)
    got, expected = run(first, requests), run(second, requests)
    assert first.stats().num_preemptions > 0
    assert stream.num_played > 40
    assert {key: one.token_ids for key, one in got.items()} == {key: one.token_ids for key, one in expected.items()}


@pytest.mark.parametrize("num_rows", [1, 3, 5, 7])
def test_padding_changes_nothing_but_its_own_block(model, num_rows):
    stream = Recorder()
    runner, cache = make_runner(model, RecordableAttention, stream)
    record(runner)
    rng, params = random.Random(num_rows), SamplingParams(max_tokens=4, temperature=0.0)
    lengths = [rng.randint(1, 30) for _ in range(num_rows)]
    blocks = [list(range(8 * row, 8 * row + 8)) for row in range(num_rows)]
    runner.run(
        Batch(
            slots=list(range(num_rows)),
            num_computed=[0] * num_rows,
            num_new=lengths,
            is_sampled=[True] * num_rows,
            joins=[Join(row, [7] * lengths[row], lengths[row], 0, params) for row in range(num_rows)],
            block_slots=[row for row in range(num_rows) for _ in range(8)],
            block_indexes=list(range(8)) * num_rows,
            block_ids=[block for own in blocks for block in own],
        )
    )
    before = [tensor.clone() for layer in cache.layers for tensor in layer]
    played = stream.num_played
    runner.run(Batch(list(range(num_rows)), lengths, [1] * num_rows, [True] * num_rows))
    assert stream.num_played == played + 1
    own = [blocks[row][length // BLOCK] * BLOCK + length % BLOCK for row, length in enumerate(lengths)]
    padding = range(NUM_BLOCKS * BLOCK, (NUM_BLOCKS + 1) * BLOCK)
    for old, new in zip(before, (tensor for layer in cache.layers for tensor in layer), strict=True):
        changed = (~torch.isclose(old, new, rtol=0, atol=0, equal_nan=True)).any(2).any(1).nonzero().flatten().tolist()
        assert set(own) <= set(changed) <= {*own, *padding}


def test_a_chunk_of_a_prompt_and_a_row_with_drafts_are_not_played(model):
    stream = Recorder()
    runner, _ = make_runner(model, RecordableAttention, stream)
    record(runner)
    join = Join(0, [7] * 9, 9, 0, SamplingParams(max_tokens=9))
    runner.run(
        Batch(
            [0], [0], [9], [True], joins=[join], block_slots=[0] * 4, block_indexes=[0, 1, 2, 3], block_ids=[5, 6, 7, 8]
        )
    )
    runner.run(Batch([0], [9], [3], [True], drafts={0: [1, 1]}))
    assert stream.num_played == 0


def test_recording_ends_when_its_memory_is_used_up_and_fewer_rows_are_filled_up(model):
    stream = Recorder()
    runner, _ = make_runner(model, RecordableAttention, stream)
    assert record(runner, max_bytes=15) == MAX_NUM_SEQS
    assert stream.num_recorded == 2, "10 bytes are within the limit, 20 beyond"
    plain, _ = make_runner(model, TorchAttention, HostStream())
    requests = neighbours(3)
    got, expected = run(engine(runner), requests), run(engine(plain), requests)
    assert stream.num_played > 20
    assert {key: one.token_ids for key, one in got.items()} == {key: one.token_ids for key, one in expected.items()}


def test_the_draft_models_steps_are_played_too(model):
    stream = Recorder()
    recorded, _ = make_runner(model, RecordableAttention, stream, draft=random_model())
    plain, _ = make_runner(model, TorchAttention, HostStream(), draft=random_model())
    assert recorded.record_draft_graphs(NUM_BLOCKS, 1000, lambda fraction: None) == MAX_NUM_SEQS
    assert plain.record_draft_graphs(NUM_BLOCKS, 1000, lambda fraction: None) == 0
    assert stream.num_recorded == len(ladder(MAX_NUM_SEQS))
    assert PROBE.guesses(recorded) == PROBE.guesses(plain)
    assert stream.num_played == 2 * (NUM_DECODED - 1), "all guesses but the first, which a prompt's chunk gives"


@given(st.integers(1, 1000))
def test_the_ladder_ends_at_the_most_rows_and_pads_by_less_than_eight_or_half(max_rows):
    sizes = ladder(max_rows)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == min(max_rows, MAX_ROWS)
    for num_rows in range(1, sizes[-1] + 1):
        filled_up = next(size for size in sizes if size >= num_rows)
        assert filled_up - num_rows < min(8, max(num_rows, 1) + 1)


def test_a_shorter_plan_fills_the_beginnings_of_a_longer_one():
    longer = DecodePlan(torch.full((3, 4), 9), torch.full((3,), 9))
    copy_into(longer, DecodePlan(torch.tensor([[1, 2], [3, 4]]), torch.tensor([5, 6])))
    assert np.array_equal(longer.tables_RB, [[1, 2, 9, 9], [3, 4, 9, 9], [9, 9, 9, 9]])
    assert longer.last_R.tolist() == [5, 6, 9]
