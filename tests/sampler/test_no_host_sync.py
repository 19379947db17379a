"""On a GPU the sampler never waits for the device: traced with fake CUDA tensors, where reading a value raises."""

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from model.batch import Join, SamplingParams
from model.sampler import Sampler, token_logprobs
from model.slot_matchers import TokenMasks

VOCAB_SIZE = 500
CUDA = torch.device("cuda:0")

KINDS = {
    "greedy": {"temperature": 0.0},
    "temperature": {},
    "top_k": {"top_k": 5},
    "top_p": {"top_p": 0.9},
    "min_p": {"min_p": 0.1},
    "typical_p": {"typical_p": 0.5},
    "truncated": {"top_k": 5, "top_p": 0.9, "min_p": 0.1, "typical_p": 0.9},
    "penalised": {"repetition_penalty": 1.2, "presence_penalty": 0.5, "frequency_penalty": 0.5, "temperature": 0.0},
    "biased": {"logit_bias": ((3, 1.0), (4, -1.0))},
    "held back": {"min_tokens": 10, "stop_token_ids": (7, 8)},
    "logprobs": {"logprobs": 5},
    "chosen logprob": {"logprobs": 0, "temperature": 0.0},
}


def trace(kinds: list[str], masks: TokenMasks | None = None) -> None:
    with FakeTensorMode():
        num_rows = len(kinds)
        sampler = Sampler(num_rows, VOCAB_SIZE, [2], CUDA)
        sampler.join(
            [Join(slot, [1, 2], 1, 0, SamplingParams(max_tokens=20, **KINDS[kind])) for slot, kind in enumerate(kinds)]
        )
        logits = torch.empty(num_rows, VOCAB_SIZE, device=CUDA)
        tokens = torch.empty(num_rows, 64, dtype=torch.int32, device=CUDA)
        draws = sampler.sample(logits, list(range(num_rows)), [2] * num_rows, tokens, masks)
        assert draws.token_ids_R.shape == (num_rows,)
        assert draws.token_ids_R.dtype == torch.int64
        assert draws.token_ids_R.device == CUDA
        if any("logprobs" in KINDS[kind] for kind in kinds):
            assert draws.top_ids_RK.shape == draws.top_RK.shape
            assert draws.chosen_logprob_R.device == CUDA


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_one_kind_runs_without_reading_the_device(kind):
    trace([kind, kind])


def test_a_mixed_batch_runs_without_reading_the_device():
    trace([*KINDS, *reversed(KINDS)])


def test_a_batch_with_grammars_runs_without_reading_the_device():
    bits = np.full((2, 64), 0x5A, dtype=np.uint8)
    trace([*KINDS], TokenMasks(np.array([1, 7]), bits))


def test_logprobs_of_a_prompt_run_without_reading_the_device():
    with FakeTensorMode():
        logits = torch.empty(9, VOCAB_SIZE, device=CUDA)
        _, top_ids, _ = token_logprobs(logits, torch.zeros(9, dtype=torch.int64, device=CUDA), 5)
        assert top_ids.shape == (9, 5)


def test_the_trace_would_notice_a_read():
    with FakeTensorMode(), pytest.raises(DataDependentOutputException):
        torch.empty(3, device=CUDA).sum().item()
