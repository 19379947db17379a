"""The sampler gives each sequence the tokens of its own parameters, whoever shares its step."""

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.batch import NO_TOKEN, Join, SamplingParams
from model.sampler import Draws, Sampler

VOCAB_SIZE = 300
MAX_MODEL_LEN = 64
EOS = (2, 7)
NUM_SLOTS = 16


def params(**changes) -> SamplingParams:
    return SamplingParams(max_tokens=MAX_MODEL_LEN, **changes)


class Table:
    """A sampler and the token table it reads, as the runner holds them."""

    def __init__(self, vocab_size: int = VOCAB_SIZE, num_slots: int = NUM_SLOTS, eos: tuple[int, ...] = EOS) -> None:
        self.sampler = Sampler(num_slots, vocab_size, eos, torch.device("cpu"))
        self.tokens_SL = torch.full((num_slots, MAX_MODEL_LEN), vocab_size - 1, dtype=torch.int32)

    def join(self, slot: int, how: SamplingParams, tokens: list[int], num_prompt: int, choice: int = 0) -> None:
        self.sampler.join([Join(slot, tokens, num_prompt, choice, how)])
        self.tokens_SL[slot, : len(tokens)] = torch.tensor(tokens, dtype=torch.int32)

    def sample(self, logits_RV: torch.Tensor, slots: list[int], num_tokens: list[int]) -> Draws:
        return self.sampler.sample(logits_RV.clone(), slots, num_tokens, self.tokens_SL)


def sample_one(logits: torch.Tensor, how: SamplingParams, tokens=(1, 5, 5), num_prompt=2, choice=0, eos=EOS) -> int:
    table = Table(vocab_size=len(logits), eos=eos)
    table.join(3, how, list(tokens), num_prompt, choice)
    return table.sample(logits[None], [3], [len(tokens)]).token_ids_R.item()


def random_logits(seed: int, *shape: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape).astype(np.float32) * 3)


all_params = st.builds(
    params,
    temperature=st.sampled_from([0.0, 1e-6, 0.3, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 5, 200, 10**6]),
    top_p=st.sampled_from([1e-10, 0.5, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 1.0]),
    typical_p=st.sampled_from([0.3, 1.0]),
    repetition_penalty=st.sampled_from([1.0, 1.3]),
    presence_penalty=st.sampled_from([0.0, 1.5]),
    frequency_penalty=st.sampled_from([0.0, -0.5]),
    logit_bias=st.sampled_from([(), ((4, 5.0),), ((0, -100.0), (5, 3.0), (299, 2.0))]),
    min_tokens=st.sampled_from([0, 30]),
    stop_token_ids=st.sampled_from([(), (4,), (9, 10, 11)]),
    seed=st.integers(-(2**63), 2**64 - 1),
    logprobs=st.sampled_from([None, 0, 1, 5, 20]),
)


@given(st.lists(all_params, min_size=NUM_SLOTS, max_size=NUM_SLOTS), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_every_sequence_draws_as_it_would_alone_through_joins_swaps_and_ends(hows, chance: random.Random):
    shared = Table()
    logits = random_logits(chance.randrange(2**32), NUM_SLOTS, VOCAB_SIZE)
    free = list(range(NUM_SLOTS))
    chance.shuffle(free)
    for previous in free[:4]:  # a former tenant of the slot leaves nothing behind
        shared.join(previous, hows[previous], [9] * MAX_MODEL_LEN, 1)
    sequences = []
    for row, (slot, how) in enumerate(zip(free, hows, strict=True)):
        tokens = [chance.randrange(VOCAB_SIZE) for _ in range(chance.randint(1, 40))]
        sequences.append((row, slot, how, tokens, chance.randint(1, len(tokens)), chance.randint(0, 3)))
        shared.join(slot, how, tokens, *sequences[-1][4:])
    chance.shuffle(sequences)
    running = sequences[: chance.randint(1, NUM_SLOTS)]
    together = shared.sample(
        logits[[row for row, *_ in running]], [slot for _, slot, *_ in running], [len(s[3]) for s in running]
    )
    for position, (row, _, how, tokens, num_prompt, choice) in enumerate(running):
        alone = Table()
        alone.join(0, how, tokens, num_prompt, choice)
        draws = alone.sample(logits[row : row + 1], [0], [len(tokens)])
        assert together.token_ids_R[position] == draws.token_ids_R[0]
        if how.logprobs is not None:
            assert together.chosen_logprob_R[position] == draws.chosen_logprob_R[0]
            assert together.top_ids_RK[position, : how.logprobs].tolist() == draws.top_ids_RK[0].tolist()
            assert together.top_RK[position, : how.logprobs].tolist() == draws.top_RK[0].tolist()


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"temperature": 0.7},
        {"top_k": 8},
        {"top_p": 0.8},
        {"min_p": 0.05},
        {"top_k": 6, "top_p": 0.9, "temperature": 2},
    ],
)
def test_draws_are_distributed_as_the_truncated_softmax(how):
    num_draws, vocab_size = 20_000, 20
    logits = random_logits(1, vocab_size) / 2
    how = params(seed=7, **how)
    probabilities = (logits.double() / how.temperature).softmax(0)
    order = probabilities.argsort(descending=True)
    kept = order[: how.top_k or vocab_size]
    within = probabilities[kept] / probabilities[kept].sum()
    kept = kept[within.cumsum(0) - within < how.top_p]
    kept = kept[probabilities[kept] >= how.min_p * probabilities.max()]
    expected = (torch.zeros(vocab_size).double().index_copy(0, kept, probabilities[kept])).numpy()
    expected = expected / expected.sum() * num_draws

    table = Table(vocab_size)
    table.join(0, how, [1], 1)
    positions = list(range(1, num_draws + 1))
    drawn = table.sample(logits.expand(num_draws, -1), [0] * num_draws, positions).token_ids_R
    counts = np.bincount(drawn.numpy(), minlength=vocab_size)
    assert counts[expected == 0].sum() == 0
    reachable = expected > 0
    chi_square = ((counts - expected)[reachable] ** 2 / expected[reachable]).sum()
    assert chi_square < 50  # p < 2e-4 with 19 degrees of freedom, less with fewer


def test_the_seed_in_either_notation_and_the_choice_key_the_stream():
    flat = torch.zeros(1, 5000)

    def stream(seed: int, choice: int = 0) -> list[int]:
        table = Table(5000)
        table.join(0, params(seed=seed), [1, 2], 2, choice)
        return table.sample(flat.expand(5, -1), [0] * 5, [2, 3, 4, 5, 6]).token_ids_R.tolist()

    assert stream(-1) == stream(2**64 - 1)
    assert stream(-(2**63)) == stream(2**63)
    assert stream(3) != stream(3, choice=1)
    assert stream(3) != stream(3 + 2**32)


def test_a_draw_depends_on_the_number_of_generated_tokens_and_not_on_the_prompt():
    logits = torch.zeros(5000)
    how = params(seed=11)
    assert sample_one(logits, how, [1, 2, 3], 2) == sample_one(logits, how, [4, 4, 4, 4, 4, 4], 5)
    assert sample_one(logits, how, [1, 2, 3], 2) != sample_one(logits, how, [1, 2, 3, 4], 2)


GRID = list(itertools.product([1e-45, 1e-10, 1e-4, 2.0], [1e-10, 1e-4, 1.0], [1, 2, VOCAB_SIZE]))


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e4, 1e37])
def test_every_permitted_corner_gives_a_token_and_the_low_ones_are_greedy(scale):
    logits = (random_logits(3, VOCAB_SIZE) / 3).clamp(-3, 3) * scale
    best = logits.argmax().item()
    for temperature, top_p, top_k in GRID:
        token = sample_one(logits, params(temperature=temperature, top_p=top_p, top_k=top_k, seed=5))
        assert 0 <= token < VOCAB_SIZE
        is_low = temperature < 1e-5 or top_k == 1 or (top_p == 1e-10 and scale >= 1)
        assert token == best or not is_low, (temperature, top_p, top_k)


def test_greedy_takes_the_lowest_id_of_equal_logits():
    logits = torch.zeros(3, 151_936)
    logits[:, [150_000, 70, 9_000]] = 4.0
    logits[1] -= 4.0
    logits[1, 70] = -0.0
    table = Table(151_936)
    for slot in range(3):
        table.join(slot, params(temperature=0.0, logprobs=3), [1], 1)
    draws = table.sample(logits, [0, 1, 2], [1, 1, 1])
    assert draws.token_ids_R.tolist() == [70, 70, 70]
    assert draws.top_ids_RK.tolist() == [[70, 9_000, 150_000]] * 3


@pytest.mark.parametrize("vocab_size", [100, 8193, 151_936])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("limits", [{}, {"top_k": 50, "top_p": 0.9, "min_p": 0.01}])
def test_rows_without_a_distribution_give_no_token_and_leave_their_neighbours_alone(vocab_size, temperature, limits):
    logits = random_logits(4, 6, vocab_size)
    broken = logits.clone()
    broken[1] = torch.nan
    broken[2] = -torch.inf
    broken[3, 17] = torch.inf
    broken[4, vocab_size - 1] = torch.nan
    table = Table(vocab_size)
    for slot in range(6):
        how = params(temperature=temperature, seed=slot, logprobs=2 if slot % 2 else None, **limits)
        table.join(slot, how, [1], 1)
    whole = table.sample(logits, list(range(6)), [1] * 6)
    draws = table.sample(broken, list(range(6)), [1] * 6)
    expected = whole.token_ids_R.tolist()
    assert draws.token_ids_R.tolist() == [expected[0], NO_TOKEN, NO_TOKEN, 17, NO_TOKEN, expected[5]]
    assert draws.chosen_logprob_R[5] == whole.chosen_logprob_R[5]
    assert draws.chosen_logprob_R.isfinite().all()
    assert draws.top_RK.isfinite().all()


def test_a_row_that_allows_one_token_draws_it():
    logits = torch.full((VOCAB_SIZE,), -torch.inf)
    logits[250] = -1e30
    for temperature in (0.0, 1e-4, 2.0):
        assert sample_one(logits, params(temperature=temperature, top_p=0.5, top_k=3)) == 250


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("num_prompt", [1, 40])
@pytest.mark.parametrize("min_tokens", [0, 1, 4])
def test_no_eos_or_stop_token_comes_before_min_tokens(temperature, num_prompt, min_tokens):
    enders = (*EOS, 30, 31)
    for ender in enders:
        bias = tuple((token, 100.0 if token == ender else 50.0) for token in enders)
        for ignore_eos in (False, True):
            how = params(
                temperature=temperature,
                min_tokens=min_tokens,
                stop_token_ids=(30, 31),
                logit_bias=bias,
                ignore_eos=ignore_eos,
            )
            for num_generated in range(6):
                tokens = [1] * (num_prompt + num_generated)
                token = sample_one(torch.zeros(VOCAB_SIZE), how, tokens, num_prompt)
                assert (token == ender) == (num_generated >= min_tokens)
                assert (token in enders) == (num_generated >= min_tokens)


def test_min_tokens_without_any_token_to_hold_back_changes_nothing():
    logits = random_logits(5, VOCAB_SIZE)
    assert sample_one(logits, params(temperature=0.0, min_tokens=9), eos=()) == logits.argmax().item()


def test_logprobs_are_of_the_untouched_distribution_whatever_the_parameters():
    logits = random_logits(6, 3, VOCAB_SIZE)
    reference = logits.double().log_softmax(1)
    crooked = params(
        temperature=1.7,
        top_k=1,
        repetition_penalty=1.8,
        presence_penalty=2.0,
        logit_bias=((8, 100.0), (int(logits[0].argmax()), -100.0)),
        min_tokens=30,
        logprobs=20,
    )
    table = Table()
    table.join(0, crooked, [8, 9, 8], 1)
    table.join(1, params(), [8, 9, 8], 1)
    table.join(2, params(temperature=0.0, logprobs=0), [8, 9, 8], 1)
    draws = table.sample(logits, [0, 1, 2], [3, 3, 3])
    chosen = draws.token_ids_R.tolist()
    assert chosen[0] == 8
    assert chosen[2] == logits[2].argmax().item()
    for row in (0, 2):
        assert draws.chosen_logprob_R[row].item() == pytest.approx(reference[row, chosen[row]].item(), abs=1e-5)
    top, top_ids = reference[0].topk(20)
    assert draws.top_ids_RK[0].tolist() == top_ids.tolist()
    assert draws.top_RK[0].tolist() == pytest.approx(top.tolist(), abs=1e-5)


def test_the_logprobs_listed_do_not_depend_on_how_many_were_asked_for():
    logits = random_logits(7, 1, VOCAB_SIZE).round()  # many ties
    lists = []
    for num_top in (1, 5, 20):
        table = Table()
        table.join(0, params(logprobs=num_top), [1], 1)
        draws = table.sample(logits, [0], [1])
        lists.append(list(zip(draws.top_ids_RK[0].tolist(), draws.top_RK[0].tolist(), strict=True)))
    assert lists[0] == lists[2][:1]
    assert lists[1] == lists[2][:5]


def test_logprobs_of_impossible_tokens_are_finite():
    logits = torch.full((1, VOCAB_SIZE), -torch.inf)
    logits[0, 3] = 1.0
    table = Table()
    table.join(0, params(logprobs=5), [1], 1)
    draws = table.sample(logits, [0], [1])
    assert draws.top_RK[0].tolist() == [0.0, -9999.0, -9999.0, -9999.0, -9999.0]


def test_no_row_asking_for_logprobs_means_none_are_made():
    table = Table()
    table.join(0, params(), [1], 1)
    assert table.sample(random_logits(8, 1, VOCAB_SIZE), [0], [1]).chosen_logprob_R is None


def test_a_full_logit_bias_and_all_stop_tokens_fit():
    how = params(
        temperature=0.0,
        min_tokens=9,
        logit_bias=tuple((token, float(token % 100)) for token in range(300)),
        stop_token_ids=tuple(token for token in range(300) if token % 100 > 57),
    )
    assert sample_one(torch.zeros(400), how) == 57


def test_a_join_clears_what_the_slot_held_before():
    table = Table()
    everything = params(
        logit_bias=((6, 1.0), (4, 100.0)),
        min_tokens=60,
        stop_token_ids=(8, 5),
        logprobs=3,
        presence_penalty=2.0,
        temperature=2.0,
    )
    table.join(0, everything, [5, 5, 5], 1)
    table.join(0, params(temperature=0.0, logit_bias=((6, 1.0),), min_tokens=60, stop_token_ids=(8,)), [5], 1)
    table.join(1, everything, [5], 1)  # as wide as the former tenant
    logits = torch.zeros(2, VOCAB_SIZE)
    logits[:, 5] = 3.0
    assert table.sample(logits, [0, 1], [1, 1]).token_ids_R[0] == 5
    assert table.sample(logits[:1], [0], [1]).chosen_logprob_R is None


def test_a_step_that_samples_no_row_is_fine():
    assert Table().sample(torch.empty(0, VOCAB_SIZE), [], []).token_ids_R.tolist() == []
