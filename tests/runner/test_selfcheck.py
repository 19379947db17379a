"""The checks at the start find what differs and switch it off; proved on the CPU with what would be a GPU's."""

from collections.abc import Callable

import pytest
import torch

from model import selfcheck
from model.attention.torch import TorchAttention
from model.batch import SamplingParams
from model.graphs import ladder
from model.kernels.triton.launches import Card, attention_launches
from model.runner import ModelRunner
from model.selfcheck import LONG, NUM_DECODED, Probe, agreement, check_execution
from model.stream import HostStream
from model.transformer import Transformer
from tests.recordable import RecordableAttention
from tests.runner.small_model import BLOCK, CONFIG, MAX_MODEL_LEN, MAX_NUM_SEQS, NUM_BLOCKS, make_runner, random_model
from tests.small_config import small_config

PROBE = Probe(vocab_size=CONFIG.vocab_size, max_model_len=MAX_MODEL_LEN, max_num_seqs=MAX_NUM_SEQS, block_size=BLOCK)


class Device(HostStream):
    """Like a GPU's stream; with a fault, what is recorded is played wrongly."""

    is_asynchronous = True

    def __init__(self, fault: str = "", num_right: int = 0) -> None:
        """`num_right`: so many recordings have no fault."""
        self.fault = fault
        self.num_right = num_right

    def record(self, compute: Callable[[], None]) -> Callable[[], None]:
        compute()
        self.num_right -= 1
        if self.num_right >= 0:
            return compute
        if self.fault == "can't record":
            raise RuntimeError("operation not permitted\n when stream is capturing")
        return (lambda: None) if self.fault == "plays nothing" else compute


class Hasty(ModelRunner):
    """Lets a step that is enqueued before the last one was read see the wrong tokens."""

    def enqueue(self, batch):
        if getattr(self, "is_unread", False):
            self._tokens_SL.zero_()
        self.is_unread = True
        return super().enqueue(batch)

    def read(self, results):
        self.is_unread = False
        return super().read(results)


@pytest.fixture(scope="module")
def model() -> Transformer:
    return random_model()


def check(runner: ModelRunner) -> dict[str, tuple[bool, str]]:
    checks = check_execution(
        runner,
        PROBE,
        "float32",
        lambda: runner.record_graphs(NUM_BLOCKS, 1, lambda fraction: None),
        lambda: runner.record_draft_graphs(NUM_BLOCKS, 1, lambda fraction: None),
    )
    return {one.part: (one.is_used, one.note) for one in checks}


def test_what_is_right_is_used(model):
    runner, _ = make_runner(model, RecordableAttention, Device())
    checks = check(runner)
    assert [is_used for is_used, _ in checks.values()] == [True, True]
    assert f"up to {MAX_NUM_SEQS} rows" in checks["CUDA graphs"][1]
    assert runner.is_asynchronous


@pytest.mark.parametrize(
    ("fault", "note"),
    [("plays nothing", "mean difference"), ("can't record", "it failed: RuntimeError: operation not")],
)
def test_graphs_that_are_wrong_or_fail_are_dropped_and_all_else_goes_on(model, fault, note):
    runner, _ = make_runner(model, RecordableAttention, Device(fault))
    plain, _ = make_runner(model, TorchAttention, HostStream())
    checks = check(runner)
    assert not checks["CUDA graphs"][0]
    assert note in checks["CUDA graphs"][1]
    assert checks["overlapped steps"][0]
    assert PROBE.logprobs(runner) == pytest.approx(PROBE.logprobs(plain), abs=1e-4)


NUM_RECORDED = len(ladder(MAX_NUM_SEQS))


def test_recorded_guesses_that_are_right_are_used(model):
    runner, _ = make_runner(model, RecordableAttention, Device(), draft=random_model())
    checks = check(runner)
    assert checks["CUDA graphs of the draft model"] == (
        True,
        f"decode steps of up to {MAX_NUM_SEQS} rows; 12 of 12 guesses the same",
    )
    assert list(checks) == ["CUDA graphs", "CUDA graphs of the draft model", "overlapped steps"]


def test_wrong_recordings_of_the_draft_model_alone_are_dropped(model):
    runner, _ = make_runner(model, RecordableAttention, Device("plays nothing", NUM_RECORDED), draft=random_model())
    plain, _ = make_runner(model, TorchAttention, HostStream(), draft=random_model())
    checks = check(runner)
    assert checks["CUDA graphs"][0]
    is_used, note = checks["CUDA graphs of the draft model"]
    assert not is_used
    assert "of 12 guesses the same" in note
    assert int(note.split()[7]) <= 1, "by chance"
    assert PROBE.guesses(runner) == PROBE.guesses(plain)


def test_a_draft_model_that_cannot_be_recorded_leaves_the_models_own_recordings(model):
    runner, _ = make_runner(model, RecordableAttention, Device("can't record", NUM_RECORDED), draft=random_model())
    plain, _ = make_runner(model, TorchAttention, HostStream(), draft=random_model())
    checks = check(runner)
    assert checks["CUDA graphs"][0]
    assert checks["CUDA graphs of the draft model"] == (
        False,
        "it failed: RuntimeError: operation not permitted when stream is capturing",
    )
    assert checks["overlapped steps"][0]
    assert PROBE.guesses(runner) == PROBE.guesses(plain)


def test_overlap_that_changes_tokens_is_switched_off(model):
    runner, _ = make_runner(model, RecordableAttention, Device(), kind_of_runner=Hasty)
    checks = check(runner)
    assert checks["overlapped steps"] == (False, "other tokens were drawn than one step after the other")
    assert not runner.is_asynchronous


def test_a_back_end_that_cannot_be_recorded_is_said(model):
    runner, _ = make_runner(model, TorchAttention, Device())
    assert check(runner)["CUDA graphs"] == (False, "the attention back end can't be recorded")


def test_nothing_is_checked_on_a_cpu(model):
    runner, _ = make_runner(model, TorchAttention, HostStream())
    assert check(runner) == {}


def test_a_wrong_context_is_told_from_rounding(model):
    """In the widest tolerance: a cache that lost what was computed before."""
    runner, _ = make_runner(model, TorchAttention, HostStream())
    expected = PROBE.logprobs(runner)
    rounded = [value * 1.001 for value in expected]
    assert agreement("rounding", "bfloat16", expected, lambda: rounded).is_used

    class Forgetful(TorchAttention):
        def attend(self, layer, q, k, v, step):
            return super().attend(layer, q, k, torch.roll(v, 1, 0), step)

    wrong, _ = make_runner(model, Forgetful, HostStream())
    assert not agreement("attention", "bfloat16", expected, lambda: PROBE.logprobs(wrong)).is_used
    assert not agreement("NaN", "bfloat16", expected, lambda: [float("nan")] * len(expected)).is_used


def test_a_gpus_probe_has_a_text_that_attention_splits_and_rows_that_are_drawn(model):
    probe = Probe(vocab_size=96, max_model_len=2048, max_num_seqs=3, block_size=16, first=LONG)
    assert [len(text) for text in probe._texts] == [LONG, 17, 25]
    config = small_config(head_dim=128)
    assert attention_launches(config, Card(132, 232_448), torch.bfloat16).split_size < LONG - NUM_DECODED
    runner, _ = make_runner(model, TorchAttention, HostStream())
    greedy = [SamplingParams(max_tokens=NUM_DECODED, temperature=0.0)] * 3
    with pytest.MonkeyPatch.context() as patch:
        drawn = PROBE.draws(runner, ahead=False)
        patch.setattr(selfcheck, "DRAWN", greedy)
        likely = PROBE.draws(runner, ahead=False)
    assert [row[0] for row in drawn] == [row[0] for row in likely]
    assert drawn != likely


@pytest.mark.parametrize("max_model_len", [1, 16, 47, 48, 128])
def test_the_probe_fits_the_context_and_one_sequences_blocks(max_model_len):
    probe = Probe(vocab_size=9, max_model_len=max_model_len, max_num_seqs=2, block_size=16)
    assert probe.is_empty == (max_model_len < 48)
    assert all(len(text) <= max_model_len for text in probe._texts)
    assert probe._num_blocks_each * len(probe._texts) <= -(-max_model_len // 16)
