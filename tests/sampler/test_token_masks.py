"""Masks of grammars in the sampler: what they forbid is never drawn, and nothing else changes."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.batch import NO_TOKEN, Join, SamplingParams
from model.penalties import forbid, forbidding_table
from model.sampler import Draws, Sampler
from model.slot_matchers import TokenMasks

VOCAB_SIZE = 77
EOS = 2


def mask(rows: dict[int, set[int]]) -> TokenMasks:
    is_allowed = np.zeros((len(rows), VOCAB_SIZE + 19), dtype=bool)  # whole words of 32 bits
    for index, tokens in enumerate(rows.values()):
        is_allowed[index, list(tokens)] = True
    return TokenMasks(np.array(list(rows), dtype=np.int64), np.packbits(is_allowed, axis=1, bitorder="little"))


def sample(logits: torch.Tensor, params: list[SamplingParams], masks: TokenMasks | None, generated: int = 1) -> Draws:
    sampler = Sampler(len(params), VOCAB_SIZE, [EOS], torch.device("cpu"))
    sampler.join([Join(slot, [1] * (1 + generated), 1, 0, one) for slot, one in enumerate(params)])
    tokens = torch.ones(len(params), 16, dtype=torch.int32)
    return sampler.sample(logits.clone(), list(range(len(params))), [1 + generated] * len(params), tokens, masks)


@given(st.sets(st.integers(0, VOCAB_SIZE - 1), min_size=1), st.integers(0, 10**6), st.sampled_from([0.0, 0.7, 2.0]))
def test_only_allowed_tokens_are_drawn_at_any_temperature(allowed: set[int], seed: int, temperature: float) -> None:
    logits = torch.randn(3, VOCAB_SIZE, generator=torch.Generator().manual_seed(seed)) * 10
    params = SamplingParams(max_tokens=9, temperature=temperature, seed=seed, top_p=0.9, top_k=5)
    free = sample(logits, [params] * 3, None)
    masked = sample(logits, [params] * 3, mask({1: allowed}))
    assert int(masked.token_ids_R[1]) in allowed
    assert masked.token_ids_R[[0, 2]].tolist() == free.token_ids_R[[0, 2]].tolist(), "other rows are as they were"


def test_in12_log_probabilities_are_those_without_the_mask() -> None:
    logits = torch.randn(1, VOCAB_SIZE, generator=torch.Generator().manual_seed(1))
    params = SamplingParams(max_tokens=9, temperature=0.0, logprobs=5)
    draws = sample(logits, [params], mask({0: {40}}))
    expected = logits.log_softmax(1)
    assert draws.token_ids_R.tolist() == [40]
    assert draws.chosen_logprob_R is not None
    assert draws.top_RK is not None
    torch.testing.assert_close(draws.chosen_logprob_R[0], expected[0, 40])
    torch.testing.assert_close(draws.top_RK[0], expected[0].topk(5).values)


def test_a_bias_and_penalties_come_before_the_mask() -> None:
    logits = torch.zeros(1, VOCAB_SIZE)
    biased = SamplingParams(max_tokens=9, temperature=0.0, logit_bias=((3, 100.0), (5, 50.0)))
    assert sample(logits, [biased], mask({0: {4, 5}})).token_ids_R.tolist() == [5]


def test_gr09_min_tokens_hold_an_end_back_only_while_something_else_is_allowed() -> None:
    logits = torch.zeros(1, VOCAB_SIZE)
    logits[0, EOS] = 9
    held = SamplingParams(max_tokens=9, temperature=0.0, min_tokens=5, stop_token_ids=(7,))
    assert sample(logits, [held], mask({0: {EOS, 7, 30}})).token_ids_R.tolist() == [30]
    assert sample(logits, [held], mask({0: {EOS, 7}})).token_ids_R.tolist() == [EOS]
    assert sample(logits, [held], mask({0: {7}})).token_ids_R.tolist() == [7]


def test_a_row_that_may_draw_nothing_draws_no_token() -> None:
    params = SamplingParams(max_tokens=9)
    draws = sample(torch.zeros(2, VOCAB_SIZE), [params] * 2, mask({0: set()}))
    assert draws.token_ids_R[0] == NO_TOKEN
    assert draws.token_ids_R[1] != NO_TOKEN


def test_forbidding_adds_minus_infinity_where_the_bit_is_clear_and_nothing_elsewhere() -> None:
    logits = torch.randn(4, VOCAB_SIZE, generator=torch.Generator().manual_seed(3))
    changed, masks = logits.clone(), mask({3: {0, 8, 76}, 1: set(range(VOCAB_SIZE))})
    table = forbidding_table(torch.device("cpu"))
    forbid(changed, torch.from_numpy(masks.rows_C), torch.from_numpy(masks.bits_CW), table)
    assert torch.equal(changed[:3], logits[:3])
    assert torch.isfinite(changed[3]).nonzero().flatten().tolist() == [0, 8, 76]
    assert torch.equal(changed[3, [0, 8, 76]], logits[3, [0, 8, 76]])
