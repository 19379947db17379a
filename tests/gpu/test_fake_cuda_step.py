"""A whole step on a GPU that isn't there: tensors have a device but no contents, and reading a value raises.

So a tensor left on the host, or a wait for the device in the middle of a step, fails here on any machine.
"""

import dataclasses
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException

from model.batch import Batch, Join, Proposal, SamplingParams
from model.cache_size import largest_batch
from model.config import ModelConfig, RopeConfig
from model.kv_cache import FP8, KVCache
from model.results import Results
from model.runner import ModelRunner
from server.engine.engine import Engine
from server.engine.messages import Choice, Request
from server.engine.scheduler import SchedulerLimits
from tests.gpu.fake_cuda import BLOCK, LLAMA, MAX_MODEL_LEN, make_runner
from tests.recordable import RecordableAttention

pytestmark = pytest.mark.usefixtures("fake_cuda")

CPU = torch.device("cpu")
GREEDY = SamplingParams(max_tokens=9, temperature=0.0)
KINDS = [
    GREEDY,
    SamplingParams(max_tokens=9, seed=1),
    SamplingParams(max_tokens=9, top_k=5, top_p=0.9, min_p=0.1),
    SamplingParams(max_tokens=9, repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.5),
    SamplingParams(max_tokens=9, logit_bias=((3, 1.0),), min_tokens=4, stop_token_ids=(7,)),
    SamplingParams(max_tokens=9, temperature=0.0, logprobs=0),
    SamplingParams(max_tokens=9, logprobs=5, prompt_logprobs=3),
    GREEDY,
]


def batch(num_computed: list[int], num_new: list[int], kinds: list[SamplingParams], unsampled: int = -1) -> Batch:
    rows = range(len(kinds))
    return Batch(
        slots=list(rows),
        num_computed=num_computed,
        num_new=num_new,
        is_sampled=[row != unsampled for row in rows],
        joins=[Join(r, [1] * (num_computed[r] + num_new[r]), 40, 0, kinds[r]) for r in rows],
        block_slots=[0, 1],
        block_indexes=[0, 0],
        block_ids=[5, 9],
    )


def check(results: Results, count: int) -> None:
    assert results.draws is not None
    assert results.draws.token_ids_R.shape == (count,)
    assert results.draws.token_ids_R.device == CPU, "copied, without waiting"


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(LLAMA, id="llama"),
        pytest.param(dataclasses.replace(LLAMA, sliding_window=20), id="window"),
        pytest.param(dataclasses.replace(LLAMA, tie_embeddings=True, qkv_bias=True, mlp_bias=True), id="tied, biases"),
        pytest.param(
            dataclasses.replace(LLAMA, rope=RopeConfig(kind="dynamic", factor=2.0, original_max_position=64)),
            id="dynamic rope",
        ),
    ],
)
def test_a_step_of_prefill_and_decode_rows_never_waits_for_the_device(config):
    """Whole prompts, chunks with and without context, and decode rows of several lengths, drawn from in every way."""
    results = make_runner(config).enqueue(batch([0, 30, 39, 40, 200, 17, 33, 0], [40, 9, 1, 1, 1, 1, 5, 12], KINDS, 7))
    check(results, 7)
    assert results.draws.chosen_logprob_R.device == CPU
    assert results.draws.top_RK.shape == (7, 5)
    ((chosen, top_ids, _),) = results.prompt_logprobs[6]
    assert chosen.shape == (5,)
    assert top_ids.shape == (5, 3)
    assert top_ids.device == CPU


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the Triton kernels, which are not run on tensors without contents: only that they are on the GPU."""
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    names: list[str] = []

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        assert {arg.device.type for arg in args if isinstance(arg, torch.Tensor)} == {"cuda"}
        names.append(self.fn.__name__)

    monkeypatch.setattr(interpreter.InterpretedFunction, "run", run)
    return names


def make_triton_runner(stored: torch.dtype) -> ModelRunner:
    from model.attention.triton import TritonAttention
    from model.kernels.triton.launches import Card, attention_launches
    from model.kernels.triton.layers import use_triton_layers
    from model.kernels.triton.sampler import TritonSampler

    card = Card(num_processors=132, shared_memory=232_448)

    def attention(config: ModelConfig, cache: KVCache) -> TritonAttention:
        return TritonAttention(config, cache, card, attention_launches(config, card, stored))

    return make_runner(attention=attention, stored=stored, prepare=use_triton_layers, sampler=TritonSampler)


@pytest.mark.parametrize("stored", [torch.bfloat16, FP8])
def test_a_step_on_the_triton_kernels_never_waits_for_the_device(stored, launched):
    runner = make_triton_runner(stored)
    check(runner.enqueue(batch([0, 30, 39, 40, 200, 17, 33, 0], [40, 9, 1, 1, 1, 1, 5, 12], KINDS, 7)), 7)
    assert {"rotate_and_write", "attend", "merge", "add_norm", "gate", "choose"} <= set(launched)
    assert runner.record_graphs(15, 2**30, lambda fraction: None) == 8
    check(runner.enqueue(Batch([0, 1, 2], [40, 39, 40], [1, 1, 1], [True] * 3)), 3)


def test_a_draft_models_guesses_never_wait_for_the_device():
    """It catches up with one row and guesses for two, a few tokens and one."""
    step = batch([40, 30, 17], [5, 2, 1], [GREEDY, SamplingParams(max_tokens=9, seed=1), GREEDY])
    step.proposals = {0: Proposal(38, 3, 4), 1: Proposal(30, 1, 1), 2: Proposal(0, 9)}
    results = make_runner(draft=dataclasses.replace(LLAMA, num_layers=1, hidden_size=32)).enqueue(step)
    check(results, 5 + 2 + 1)
    assert [(row, len(guess), guess.device) for row, guess in results.proposed.items()] == [
        (0, 4, CPU),
        (1, 1, CPU),
        (2, 0, CPU),
    ]


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_decode_rows_of_one_kind_never_wait_for_the_device(kind):
    check(make_runner().enqueue(batch([50, 60], [1, 1], [kind, kind])), 2)


def test_a_step_that_draws_nothing_never_waits_for_the_device():
    assert make_runner().enqueue(batch([0], [40], [GREEDY], unsampled=0)).draws is None


def test_the_largest_step_never_waits_for_the_device():
    check(make_runner().enqueue(largest_batch(8, 64, MAX_MODEL_LEN, BLOCK)), 8)


def test_a_recorded_step_is_filled_in_and_played_without_waiting():
    runner = make_runner(attention=RecordableAttention)
    assert runner.record_graphs(15, 2**30, lambda fraction: None) == 8
    check(runner.enqueue(batch([0, 30, 7], [40, 9, 9], [GREEDY] * 3)), 3)
    check(runner.enqueue(Batch([0, 1, 2], [40, 39, 16], [1, 1, 1], [True] * 3)), 3)


def test_recorded_guesses_are_played_without_waiting():
    draft = dataclasses.replace(LLAMA, num_layers=1, hidden_size=32)
    runner = make_runner(attention=RecordableAttention, draft=draft)
    assert runner.record_draft_graphs(15, 2**30, lambda fraction: None) == 8
    step = batch([40, 30, 17], [5, 5, 1], [GREEDY] * 3)
    step.proposals = {0: Proposal(40, 1, 4), 1: Proposal(30, 1, 4)}
    assert [len(guess) for guess in runner.enqueue(step).proposed.values()] == [4, 4]


def test_an_engine_enqueues_two_steps_before_it_waits_for_the_first():
    runner = make_runner()
    enqueued = []
    enqueue = runner.enqueue
    runner.enqueue = lambda batch: enqueued.append(batch) or enqueue(batch)
    engine = Engine(runner, SchedulerLimits(8, 64, 16, BLOCK), MAX_MODEL_LEN, frozenset({2}))
    engine.add(Request(prompt_ids=[5] * 20, params=GREEDY, choices=[Choice(0, 0), Choice(1, 1)]))
    with pytest.raises(DataDependentOutputException):
        engine.step()
    assert len(enqueued) == 2


def test_reading_what_was_drawn_is_the_wait_that_is_left():
    with pytest.raises(DataDependentOutputException):
        make_runner().run(batch([0], [4], [GREEDY]))
