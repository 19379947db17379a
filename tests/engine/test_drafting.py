"""Guesses: what is guessed, when it is worth it, and that it changes no text."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.batch import SamplingParams
from server.engine.draft_planner import Offer, best_length
from server.engine.drafting import LONGEST_PAUSE, MAX_DRAFTS, NGRAM, UNKNOWN_COSTS, Drafter, Record, StepCosts
from server.engine.engine import Engine
from server.engine.step_costs import measure_step_costs
from tests.engine.generation import GREEDY, alone, make_engine, neighbours, prompt, request, run

FREE = StepCosts((1, 64), (1.0, 1.0))


def test_what_followed_the_last_tokens_before_is_guessed_again() -> None:
    drafter = Drafter([], [1, 2, 3, 4, 5, 9, 9, 1, 2, 3])
    assert drafter.guess() == [4, 5, 9, 9, 1, 2, 3, 4], "and beyond the end it goes on with itself"


def test_the_latest_place_counts() -> None:
    drafter = Drafter([], [1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3])
    assert drafter.guess()[0] == 5


def test_without_a_repetition_nothing_is_guessed() -> None:
    assert Drafter([], list(range(20))).guess() == []
    assert Drafter([], [1, 2]).guess() == []


def test_a_prediction_is_followed_from_its_start_and_found_again_after_a_change() -> None:
    prediction = list(range(100, 130))
    drafter = Drafter(prediction, [1, 2])
    assert drafter.guess() == [], "not before its first token came"
    drafter.extend(prediction[0])
    assert drafter.guess() == prediction[1 : 1 + MAX_DRAFTS]
    for token in [*prediction[1:5], 7, *prediction[6:9]]:
        drafter.extend(token)
    assert drafter.guess() == prediction[9 : 9 + MAX_DRAFTS]


def test_a_prediction_is_not_guessed_beyond_its_end() -> None:
    drafter = Drafter([10, 11, 12, 13], [1, 2])
    for token in [10, 11, 12]:
        drafter.extend(token)
    assert drafter.guess() == [13]


def test_wrong_guesses_make_pauses_that_grow_and_end() -> None:
    drafter = Drafter([], [1, 2, 3] * 5)
    pauses = []
    for _ in range(8):
        pauses.append(tokens_until_guess(drafter))
        drafter.learn(MAX_DRAFTS, 0)
    assert pauses == [0, 2, 4, 8, 16, 32, LONGEST_PAUSE, LONGEST_PAUSE]
    tokens_until_guess(drafter)
    drafter.learn(MAX_DRAFTS, 2)
    assert drafter.guess()


def tokens_until_guess(drafter: Drafter) -> int:
    """How many tokens come before it guesses, though it could."""
    num_tokens = 0
    while not drafter.guess():
        assert not drafter.is_hopeful
        drafter.extend([1, 2, 3][len(drafter._text) % 3])
        num_tokens += 1
    return num_tokens


@given(st.lists(st.integers(0, 3), max_size=60), st.lists(st.integers(0, 3), max_size=20))
def test_a_guess_is_what_followed_the_same_tokens_somewhere(token_ids: list[int], prediction: list[int]) -> None:
    drafter = Drafter(prediction, token_ids[:5])
    for token in token_ids[5:]:
        drafter.extend(token)
    guess = drafter.guess()
    text = [*prediction, *token_ids]
    assert len(guess) <= MAX_DRAFTS
    if guess:
        shared = [min(p, NGRAM) for p in range(1, len(text))]
        places = [p for p, n in enumerate(shared, 1) if text[p - n : p] == text[-n:]]
        assert any((text + guess)[p : p + len(guess)] == guess for p in places)


def offer(rate: float, **fields: int) -> Offer:
    return Offer(0, Record(rate), MAX_DRAFTS, **fields)


def test_guesses_are_made_only_where_they_promise_more_than_they_cost() -> None:
    assert best_length([offer(0.9)], 1, FREE)[0] == MAX_DRAFTS
    assert best_length([offer(0.05)], 1, FREE) == (0, 1.0)
    assert best_length([offer(0.9)], 1, StepCosts((1, 8), (1.0, 8.0))) == (0, 1.0)
    assert best_length([offer(0.9)], 1, UNKNOWN_COSTS) == (0, 1.0)
    in_between, speedup = best_length([offer(0.9)], 1, StepCosts((1, 4, 16), (1.0, 1.2, 6.0)))
    assert 1 <= in_between <= 5
    assert speedup > 1.1


def test_costs_between_measured_sizes_lie_on_a_line() -> None:
    costs = StepCosts((1, 4, 16), (1.0, 2.0, 5.0))
    assert [costs.at(n) for n in (1, 2.5, 4, 10, 16, 28)] == [1.0, 1.5, 2.0, 3.5, 5.0, 8.0]


@pytest.fixture(scope="module")
def plain(model_dir: Path) -> Engine:
    return make_engine(model_dir)


SAMPLED = SamplingParams(max_tokens=30, temperature=0.9, top_p=0.95, seed=4, ignore_eos=True)
PENALISED = SamplingParams(max_tokens=30, temperature=0.7, seed=9, frequency_penalty=0.8, repetition_penalty=1.2)
HELD_BACK = SamplingParams(max_tokens=30, temperature=1.0, seed=2, min_tokens=12)


@pytest.mark.parametrize("params", [GREEDY, SAMPLED, PENALISED, HELD_BACK])
@pytest.mark.parametrize("num_wrong", [0, 1, 5, 30])
def test_drafts_change_no_token(model_dir: Path, plain: Engine, params: SamplingParams, num_wrong: int) -> None:
    expected = alone(plain, prompt(20), params)
    prediction = [
        (token + 1) % 90 if position % (31 - num_wrong) == 3 and num_wrong else token
        for position, token in enumerate(expected.token_ids)
    ]
    engine = make_engine(model_dir, step_costs=FREE)
    steps = []
    requests = [request(prompt(20), params, prediction_ids=prediction)]
    drafted = run(engine, requests, lambda step: steps.append(len(step.token_ids)))[0]
    assert drafted.token_ids == expected.token_ids
    assert (drafted.reason, drafted.stop_token_id) == (expected.reason, expected.stop_token_id)
    if num_wrong == 0 and len(expected.token_ids) > 10:
        assert max(steps) > 4, "several tokens came in one step"


def test_drafts_of_one_change_nothing_for_its_neighbours_and_survive_preemption(model_dir: Path, plain: Engine) -> None:
    others = neighbours(5)
    expected = run(plain, others)
    wanted = alone(plain, prompt(20), GREEDY).token_ids
    engine = make_engine(model_dir, step_costs=FREE, num_blocks=40)
    predicted = request(prompt(20), GREEDY, prediction_ids=wanted)
    got = run(engine, [*others, predicted])
    assert got[0].token_ids == wanted
    assert {i: one.token_ids for i, one in got.items() if i} == {i: one.token_ids for i, one in expected.items()}


def test_what_a_sequence_repeats_is_guessed_without_a_prediction(model_dir: Path) -> None:
    engine = make_engine(model_dir, step_costs=FREE)
    # A bias so strong that the model says the same token for ever.
    params = SamplingParams(max_tokens=40, temperature=0.0, logit_bias=((9, 100.0),), ignore_eos=True)
    steps = []
    generated = run(engine, [request(prompt(5), params)], lambda step: steps.append(len(step.token_ids)))[0]
    assert generated.token_ids == [9] * 40
    assert len(steps) < 20
    assert engine.stats().num_accepted_drafts > 20


def test_the_prediction_is_accounted_for(model_dir: Path, plain: Engine) -> None:
    tokens = alone(plain, prompt(20), GREEDY).token_ids
    engine = make_engine(model_dir, step_costs=FREE)
    ends = []
    prediction = [*tokens[:10], 1, 1, 1]
    run(engine, [request(prompt(20), GREEDY, prediction_ids=prediction)], lambda step: ends.extend(step.finished))
    assert ends[0].num_accepted >= 8
    assert ends[0].num_rejected > 0


def test_costs_are_measured_on_the_runner_itself(model_dir: Path) -> None:
    engine = make_engine(model_dir)
    costs = measure_step_costs(engine._runner, max_model_len=128, block_size=4)
    assert costs.costs[0] == 1.0
    assert all(cost > 0 for cost in costs.costs)
    assert measure_step_costs(engine._runner, max_model_len=20, block_size=4) == UNKNOWN_COSTS
    assert alone(engine, prompt(20), GREEDY).token_ids, "the engine works after it"


def test_drafts_after_the_end_of_a_text_are_not_counted_as_right(model_dir: Path, plain: Engine) -> None:
    tokens = alone(plain, prompt(20), GREEDY).token_ids
    params = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True, stop_token_ids=(tokens[4],))
    ends = []
    run(
        make_engine(model_dir, step_costs=FREE),
        [request(prompt(20), params, prediction_ids=tokens)],
        lambda step: ends.extend(step.finished),
    )
    num_tokens = tokens.index(tokens[4]) + 1
    assert ends[0].num_accepted < num_tokens
