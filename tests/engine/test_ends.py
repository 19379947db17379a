"""Where a text ends: end-of-sequence and stop tokens, min_tokens, and the edge of the context."""

import msgspec
import pytest

from model.batch import SamplingParams
from tests.engine.generation import (
    BLOCK,
    EOS,
    GREEDY,
    MAX_MODEL_LEN,
    alone,
    make_engine,
    neighbours,
    prompt,
    request,
    run,
)

USER_STOP = 7
WANTS_TO_END = SamplingParams(max_tokens=12, temperature=0.0, logit_bias=tuple((eos, 100.0) for eos in EOS))
WANTS_TO_STOP = SamplingParams(
    max_tokens=12, temperature=0.0, logit_bias=((USER_STOP, 100.0),), stop_token_ids=(USER_STOP,)
)


@pytest.mark.parametrize("num_prompt", [1, 16, 110])
@pytest.mark.parametrize("min_tokens", [0, 1, 4])
@pytest.mark.parametrize(("params", "ends"), [(WANTS_TO_END, EOS), (WANTS_TO_STOP, (USER_STOP,))], ids=["eos", "stop"])
def test_dt07_exactly_min_tokens_come_before_the_end(model_dir, num_prompt, min_tokens, params, ends):
    params = msgspec.structs.replace(params, min_tokens=min_tokens)
    ours = alone(make_engine(model_dir), prompt(num_prompt), params)
    *before, last = ours.token_ids
    assert len(before) == min_tokens
    assert last in ends
    assert not {*EOS, *ends}.intersection(before)
    assert (ours.reason, ours.stop_token_id) == ("stop", last)


def test_dt07_min_tokens_are_counted_through_preemption_and_in_a_new_engine(model_dir):
    params = msgspec.structs.replace(WANTS_TO_END, min_tokens=9)
    expected = alone(make_engine(model_dir), prompt(20), params)
    engine = make_engine(model_dir, num_blocks=MAX_MODEL_LEN // BLOCK)
    together = run(engine, [*neighbours(14), request(prompt(20), params)])
    assert engine.stats().num_preemptions > 0
    assert together[0].token_ids == expected.token_ids
    rest = alone(make_engine(model_dir), prompt(20), params, emitted=expected.token_ids[:6])
    assert rest.token_ids == expected.token_ids[6:]


def test_dt07_max_tokens_end_a_text_whose_min_tokens_are_as_many(model_dir):
    params = msgspec.structs.replace(WANTS_TO_END, min_tokens=12)
    ours = alone(make_engine(model_dir), prompt(20), params)
    assert (len(ours.token_ids), ours.reason, ours.stop_token_id) == (12, "length", None)


def test_ignored_eos_is_a_token_like_any_other_and_stop_tokens_still_end(model_dir):
    ignoring = msgspec.structs.replace(WANTS_TO_END, ignore_eos=True)
    ours = alone(make_engine(model_dir), prompt(20), ignoring)
    assert set(ours.token_ids) <= set(EOS)
    assert (len(ours.token_ids), ours.reason) == (12, "length")
    ours = alone(make_engine(model_dir), prompt(20), msgspec.structs.replace(ignoring, stop_token_ids=EOS))
    assert (len(ours.token_ids), ours.reason) == (1, "stop")


@pytest.mark.parametrize("max_step_tokens", [16, 512])
@pytest.mark.parametrize("room", [0, 1, 2])
def test_dt09_the_last_fitting_request_gets_exactly_the_tokens_left(model_dir, room, max_step_tokens):
    engine = make_engine(model_dir, max_step_tokens=max_step_tokens)
    params = msgspec.structs.replace(GREEDY, max_tokens=room)
    texts = run(engine, [request(prompt(MAX_MODEL_LEN - room), params, n=2)])
    assert [(len(texts[i].token_ids), texts[i].reason) for i in (0, 1)] == [(room, "length")] * 2


@pytest.mark.parametrize("length", [MAX_MODEL_LEN - 1, MAX_MODEL_LEN, MAX_MODEL_LEN + 1, MAX_MODEL_LEN + 500, 0])
def test_dt09_a_request_that_does_not_fit_ends_with_an_error_and_harms_nobody(model_dir, length):
    """The API refuses it; here it must not stop the engine."""
    expected = alone(make_engine(model_dir), prompt(20), GREEDY)
    engine = make_engine(model_dir)
    too_long = request(prompt(length), msgspec.structs.replace(GREEDY, max_tokens=2), sequence_id=1, n=2)
    texts = run(engine, [too_long, request(prompt(20), GREEDY)])
    assert [(texts[i].reason, texts[i].token_ids) for i in (1, 2)] == [("error", [])] * 2
    assert f"{length} prompt tokens" in texts[1].error
    assert texts[0].token_ids == expected.token_ids


def test_dt09_a_pool_of_one_full_sequence_carries_it_to_its_last_token(model_dir):
    engine = make_engine(model_dir, num_blocks=MAX_MODEL_LEN // BLOCK)
    params = msgspec.structs.replace(GREEDY, max_tokens=MAX_MODEL_LEN - 10)
    ours = run(engine, [request(prompt(10), params, n=2)])
    assert [len(ours[i].token_ids) for i in (0, 1)] == [MAX_MODEL_LEN - 10] * 2
    assert ours[0].token_ids == ours[1].token_ids
