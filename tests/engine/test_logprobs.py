"""Log-probabilities against a plain forward pass of transformers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from model.batch import SamplingParams, TokenLogprobs
from tests.engine.generation import VOCAB, Generated, alone, make_engine, neighbours, prompt, request, run, save_llama

PROMPT = prompt(50)
PENALTIES = {"repetition_penalty": 1.3, "presence_penalty": 0.6, "frequency_penalty": 0.6, "logit_bias": ((8, 3.0),)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, LlamaForCausalLM]:
    directory = tmp_path_factory.mktemp("llama")
    return directory, save_llama(directory)


@torch.inference_mode()
def reference(theirs: LlamaForCausalLM, token_ids: list[int]) -> Tensor:
    """Log-probabilities [N - 1, V] of what follows each token but the last."""
    return theirs(torch.tensor([token_ids])).logits[0, :-1].log_softmax(dim=1)


def check(entries: list[TokenLogprobs], token_ids: list[int], expected: Tensor, num_top: int) -> None:
    assert len(entries) == len(token_ids) == len(expected)
    for entry, token_id, expected_V in zip(entries, token_ids, expected, strict=True):
        assert entry.chosen == pytest.approx(expected_V[token_id].item(), abs=1e-3)
        assert len(set(entry.top_ids)) == len(entry.top) == num_top
        assert entry.top == pytest.approx(expected_V.topk(num_top).values.tolist(), abs=1e-3)
        assert entry.top == pytest.approx(expected_V[entry.top_ids].tolist(), abs=1e-3)


def check_all(theirs: LlamaForCausalLM, ours: Generated, num_top: int) -> None:
    expected = reference(theirs, PROMPT + ours.token_ids)
    check(ours.prompt_logprobs, PROMPT[1:], expected[: len(PROMPT) - 1], num_top)
    check(ours.logprobs, ours.token_ids, expected[len(PROMPT) - 1 :], num_top)


def params(num_top: int, temperature: float = 1.0, **fields) -> SamplingParams:
    return SamplingParams(
        max_tokens=20,
        temperature=temperature,
        seed=5,
        ignore_eos=True,
        logprobs=num_top,
        prompt_logprobs=num_top,
        **fields,
    )


@pytest.mark.parametrize("penalties", [{}, PENALTIES], ids=["plain", "penalised"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("num_top", [0, 1, 5, 20, VOCAB])
def test_dt06_log_probabilities_are_those_of_the_untouched_distribution(models, num_top, temperature, penalties):
    directory, theirs = models
    check_all(theirs, alone(make_engine(directory), PROMPT, params(num_top, temperature, **penalties)), num_top)


@pytest.mark.parametrize("max_step_tokens", [16, 17, 512])
def test_dt06_log_probabilities_are_the_same_in_chunks_and_among_others(models, max_step_tokens):
    directory, theirs = models
    engine = make_engine(directory, max_step_tokens=max_step_tokens)
    requests = [request(PROMPT, params(num_top), sequence_id=num_top) for num_top in (0, 1, 5, 20)]
    together = run(engine, [*neighbours(12), *requests])
    for num_top in (0, 1, 5, 20):
        check_all(theirs, together[num_top], num_top)


def test_dt06_log_probabilities_of_a_prompt_are_whole_though_it_is_cached(models):
    """Cached blocks hold no logits, so they are computed again."""
    directory, theirs = models
    engine = make_engine(directory)
    alone(engine, PROMPT, params(0))
    warm = alone(engine, PROMPT, params(5))
    assert warm.num_cached == 0
    check_all(theirs, warm, 5)


def test_dt06_log_probabilities_after_a_cache_hit(models):
    directory, theirs = models
    engine = make_engine(directory)
    how = SamplingParams(max_tokens=20, seed=5, ignore_eos=True, logprobs=5)
    alone(engine, PROMPT, how)
    warm = alone(engine, PROMPT, how)
    assert warm.num_cached == 48
    check(warm.logprobs, warm.token_ids, reference(theirs, PROMPT + warm.token_ids)[len(PROMPT) - 1 :], 5)
    assert warm.prompt_logprobs == []


def test_dt06_log_probabilities_of_a_prompt_alone(models):
    directory, theirs = models
    how = SamplingParams(max_tokens=0, prompt_logprobs=3)
    ours = alone(make_engine(directory), PROMPT, how)
    assert (ours.token_ids, ours.logprobs, ours.reason) == ([], [], "length")
    check(ours.prompt_logprobs, PROMPT[1:], reference(theirs, PROMPT), 3)


def test_dt06_a_prompt_of_one_token_has_none(models):
    directory, _ = models
    ours = alone(make_engine(directory), PROMPT[:1], params(3))
    assert (len(ours.prompt_logprobs), len(ours.logprobs)) == (0, 20)
