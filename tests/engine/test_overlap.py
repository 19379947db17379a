"""A step enqueued before the last one's results are read draws what it would draw after: the real runner on the CPU."""

from pathlib import Path

import pytest

from model.batch import SamplingParams
from model.grammar import Grammar
from server.engine.drafting import StepCosts
from server.engine.engine import Engine
from server.engine.messages import Request
from tests.engine.generation import (
    BLOCK,
    GREEDY,
    MAX_MODEL_LEN,
    Generated,
    make_engine,
    neighbours,
    prompt,
    request,
    run,
)
from tests.engine.test_grammars import OF_SCHEMA, TOKENS, VOCABULARY

FREE_DRAFTS = StepCosts((1, 64), (1.0, 1.0))


def guided(count: int) -> list[Request]:
    params = SamplingParams(max_tokens=40, grammar=OF_SCHEMA, seed=4)
    return [request(prompt(4 + i, i), params, sequence_id=i) for i in range(count)]


def engine(model_dir: Path, *, is_overlapped: bool, **options) -> Engine:
    made = make_engine(model_dir, is_overlapped=is_overlapped, **options)
    made.use(VOCABULARY)
    return made


def assert_same(got: dict[int, Generated], expected: dict[int, Generated]) -> None:
    """But for rounding: which rows share a step differs."""
    assert got.keys() == expected.keys()
    for key, ours in got.items():
        theirs = expected[key]
        assert (ours.token_ids, ours.reason, ours.error) == (theirs.token_ids, theirs.reason, theirs.error)
        for name in ("logprobs", "prompt_logprobs"):
            ours_chosen, theirs_chosen = ([entry.chosen for entry in getattr(one, name)] for one in (ours, theirs))
            assert ours_chosen == pytest.approx(theirs_chosen, abs=1e-4)


@pytest.mark.parametrize(
    ("requests", "options"),
    [
        pytest.param(neighbours(14), {}, id="every kind"),
        pytest.param(neighbours(14), {"num_blocks": MAX_MODEL_LEN // BLOCK}, id="preempted"),
        pytest.param(neighbours(6), {"step_costs": FREE_DRAFTS}, id="drafts"),
        pytest.param([*neighbours(8), *guided(4)], {}, id="grammars"),
        pytest.param([request(prompt(9), SamplingParams(max_tokens=0, prompt_logprobs=1))], {}, id="prompt alone"),
    ],
)
def test_everything_that_comes_out_is_the_same(model_dir, requests, options):
    overlapped = engine(model_dir, is_overlapped=True, **options)
    together = run(overlapped, requests)
    assert_same(together, run(engine(model_dir, is_overlapped=False, **options), requests))
    if options.get("num_blocks"):
        assert overlapped.stats().num_preemptions > 0


def test_a_step_is_on_its_way_while_the_one_before_is_read_unless_a_mask_needs_its_token(model_dir):
    ahead = engine(model_dir, is_overlapped=True)
    run(ahead, [request(prompt(5), GREEDY)])
    assert ahead._runner.was_ahead
    waiting = engine(model_dir, is_overlapped=True)
    run(waiting, guided(1))
    assert not waiting._runner.was_ahead


def test_a_slot_that_a_grammar_takes_over_does_not_follow_the_aborted_draw(model_dir):
    """The draw of the sequence that was there before comes when the grammar's sequence has joined."""
    params = SamplingParams(max_tokens=9, grammar=Grammar("regex", "[ab]{4}"), seed=1)
    expected = run(engine(model_dir, is_overlapped=False), [request(prompt(4), params, sequence_id=2)])[2]
    overlapped = engine(model_dir, is_overlapped=True, max_num_seqs=1)

    def replace(step):
        if 1 in step.sequence_ids:
            overlapped.abort([1])

    says_a = SamplingParams(max_tokens=9, temperature=0.0, logit_bias=((TOKENS.index(b"a"), 100.0),))
    requests = [request(prompt(6), says_a, sequence_id=1), request(prompt(4), params, sequence_id=2)]
    got = run(overlapped, requests, replace)
    assert got[2] == expected


def test_a_failed_draw_harms_neither_the_step_on_its_way_nor_the_neighbours(model_dir):
    broken = SamplingParams(max_tokens=9, temperature=0.0, logit_bias=((4, float("nan")),))
    requests = [*neighbours(4), request(prompt(6), broken, sequence_id=1)]
    got = run(engine(model_dir, is_overlapped=True), requests)
    assert got[1].reason == "error"
    assert_same(got, run(engine(model_dir, is_overlapped=False), requests))
