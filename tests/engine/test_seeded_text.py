"""A sampled text depends on its request and seed alone, whatever happens around it and to it."""

from collections.abc import Callable

import msgspec
import pytest

from model.batch import SamplingParams, TokenLogprobs
from server.engine.engine import Engine
from server.engine.messages import Choice, Request, StepResult
from tests.engine.generation import (
    BLOCK,
    MAX_MODEL_LEN,
    Generated,
    alone,
    make_engine,
    neighbours,
    prompt,
    request,
    run,
)

SAMPLED = SamplingParams(max_tokens=30, seed=42, ignore_eos=True)
KINDS = {
    "temperature": SAMPLED,
    "truncated": msgspec.structs.replace(SAMPLED, temperature=1.4, top_p=0.9, top_k=40, min_p=0.01),
    "penalised": msgspec.structs.replace(
        SAMPLED, repetition_penalty=1.2, presence_penalty=0.5, frequency_penalty=0.5, logprobs=3
    ),
}
GREEDY = msgspec.structs.replace(SAMPLED, temperature=0.0, frequency_penalty=0.4, logprobs=2)
SMALLEST_POOL = MAX_MODEL_LEN // BLOCK


@pytest.fixture(params=KINDS)
def params(request) -> SamplingParams:
    return KINDS[request.param]


def test_dt02_seeds_and_choices_differ(model_dir):
    engine = make_engine(model_dir)
    texts = run(engine, [request(prompt(20), SAMPLED, n=4)])
    texts[4] = alone(engine, prompt(20), msgspec.structs.replace(SAMPLED, seed=43))
    assert len({tuple(one.token_ids) for one in texts.values()}) == 5


@pytest.mark.parametrize("max_step_tokens", [16, 512])
def test_dt02_text_is_the_same_beside_fifteen_others(model_dir, params, max_step_tokens):
    expected = alone(make_engine(model_dir), prompt(20), params)
    engine = make_engine(model_dir, max_step_tokens=max_step_tokens)
    together = run(engine, [*neighbours(15), request(prompt(20), params)])
    assert together[0].token_ids == expected.token_ids


def test_dt02_text_is_the_same_after_preemption_among_others(model_dir, params):
    expected = alone(make_engine(model_dir), prompt(20), params)
    engine = make_engine(model_dir, num_blocks=SMALLEST_POOL)
    together = run(engine, [*neighbours(15), request(prompt(20), params)])
    assert engine.stats().num_preemptions >= 5
    assert together[0].token_ids == expected.token_ids


def test_dt02_text_goes_on_from_each_emitted_token_in_a_new_engine(model_dir, params):
    engine = make_engine(model_dir)
    whole = alone(engine, prompt(20), params)
    for count in range(1, params.max_tokens):
        rest = alone(engine, prompt(20), params, emitted=whole.token_ids[:count], cache_salt=str(count))
        assert whole.token_ids[:count] + rest.token_ids == whole.token_ids
        assert rest.reason == whole.reason


def test_dt02_a_choice_writes_alone_what_it_writes_beside_the_others(model_dir, params):
    engine = make_engine(model_dir)
    together = run(engine, [request(prompt(20), params, n=4)])
    for index in range(4):
        (single,) = run(engine, [Request(prompt_ids=prompt(20), params=params, choices=[Choice(9, index)])]).values()
        assert single.token_ids == together[index].token_ids


def intruder(
    engine: Engine, is_time: Callable[[StepResult], bool], length: int = MAX_MODEL_LEN - 1
) -> Callable[[StepResult], None]:
    """After each step for which it is time, a more urgent request takes the one slot, and by default every block."""
    ids = iter(range(1000, 2000))

    def after_step(step: StepResult) -> None:
        if is_time(step):
            one = next(ids)
            params = SamplingParams(max_tokens=1)
            engine.add(request(prompt(length, seed=one), params, sequence_id=one, priority=-1))

    return after_step


def assert_same(one: Generated, other: Generated) -> None:
    assert one.token_ids == other.token_ids
    assert (one.reason, one.stop_token_id) == (other.reason, other.stop_token_id)
    assert_close(one.logprobs, other.logprobs)
    assert_close(one.prompt_logprobs, other.prompt_logprobs)


def assert_close(ours: list[TokenLogprobs], others: list[TokenLogprobs]) -> None:
    assert len(ours) == len(others)
    for one, other in zip(ours, others, strict=True):
        assert one.top_ids == other.top_ids
        assert [one.chosen, *one.top] == pytest.approx([other.chosen, *other.top], abs=1e-4)


@pytest.mark.parametrize("kind", [*KINDS, "greedy", "prompt logprobs"])
def test_dt03_preemption_after_every_token_changes_nothing(model_dir, kind):
    params = {**KINDS, "greedy": GREEDY, "prompt logprobs": msgspec.structs.replace(GREEDY, prompt_logprobs=4)}[kind]
    params = msgspec.structs.replace(params, max_tokens=40)
    expected = alone(make_engine(model_dir), prompt(30), params)
    assert len(expected.token_ids) == 40
    engine = make_engine(model_dir, max_num_seqs=1, num_blocks=SMALLEST_POOL)
    texts = run(engine, [request(prompt(30), params)], intruder(engine, lambda step: 0 in step.sequence_ids))
    assert engine.stats().num_preemptions == 39
    assert_same(texts[0], expected)


@pytest.mark.parametrize("length", [MAX_MODEL_LEN - 1, 20], ids=["all recomputed", "partly from the cache"])
def test_dt03_preemption_after_every_chunk_of_the_prompt_changes_nothing(model_dir, length):
    params = msgspec.structs.replace(GREEDY, max_tokens=20, prompt_logprobs=3)
    expected = alone(make_engine(model_dir), prompt(100), params)
    assert len(expected.prompt_logprobs) == 99
    # Chunks end within blocks, so that some tokens that were handed out before are computed again.
    engine = make_engine(model_dir, max_num_seqs=1, num_blocks=SMALLEST_POOL, max_step_tokens=18)
    disturb = intruder(engine, lambda step: 0 in step.prompt_logprobs, length)
    texts = run(engine, [request(prompt(100), params)], disturb)
    assert engine.stats().num_preemptions > 100 // 18
    assert_same(texts[0], expected)


def test_dt03_the_end_is_found_where_it_is_without_preemption(model_dir):
    """EOS and stop tokens end a text at the same place, and max_tokens counts no token twice."""
    stop = alone(make_engine(model_dir), prompt(30), GREEDY).token_ids[17]
    params = msgspec.structs.replace(GREEDY, stop_token_ids=(stop,))
    expected = alone(make_engine(model_dir), prompt(30), params)
    assert (expected.reason, expected.stop_token_id) == ("stop", stop)
    engine = make_engine(model_dir, max_num_seqs=1, num_blocks=SMALLEST_POOL)
    texts = run(engine, [request(prompt(30), params)], intruder(engine, lambda step: 0 in step.sequence_ids))
    assert engine.stats().num_preemptions == len(expected.token_ids) - 1
    assert_same(texts[0], expected)
