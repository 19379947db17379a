"""Prompts and streams share a step's time."""

import itertools
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from model.batch import SamplingParams
from server.engine.drafting import UNKNOWN_COSTS, StepCosts
from server.engine.engine import Engine
from server.engine.messages import Choice, Request
from server.engine.scheduler import SchedulerLimits
from server.engine.step_budget import MIN_PROMPT_TOKENS, step_budget
from server.engine.step_costs import measure_prompt_costs
from tests.engine.generation import BLOCK, GREEDY, MAX_MODEL_LEN, alone, make_engine, prompt
from tests.sim.fake_runner import FakeRunner

LINEAR = StepCosts((1, 101), (1.0, 11.0))
"""A step costs 1 and a tenth more for each token after the first."""


@st.composite
def all_costs(draw: st.DrawFn) -> StepCosts:
    """Costs that grow with the number of tokens."""
    steps = draw(st.lists(st.floats(0, 5), min_size=1, max_size=5))
    costs = list(itertools.accumulate(steps, initial=1.0))
    return StepCosts(tuple(4**i for i in range(len(costs))), tuple(costs))


@given(all_costs(), st.integers(1, 100), st.integers(1, 20), st.integers(100, 5000))
def test_a_step_with_a_prompt_takes_at_most_twice_as_long_while_streams_outnumber_prompts(
    costs, streams, prompts, most
):
    tokens = step_budget(max(streams, prompts), prompts, costs, most)
    least = max(streams, prompts) + MIN_PROMPT_TOKENS
    assert tokens <= most
    assert tokens <= least or costs.at(tokens) <= 2 * costs.at(max(streams, prompts)) + 1e-9


@given(all_costs(), st.integers(0, 100), st.integers(0, 100), st.integers(100, 5000))
def test_every_stream_and_a_piece_of_a_prompt_fit_into_every_step(costs, streams, prompts, most):
    assert step_budget(streams, prompts, costs, most) >= min(most, streams + MIN_PROMPT_TOKENS)


def test_alone_or_at_unknown_costs_prompts_take_the_whole_budget():
    assert step_budget(0, 3, LINEAR, 500) == 500
    assert step_budget(4, 1, UNKNOWN_COSTS, 500) == 500


def test_prompts_that_outnumber_streams_get_more_of_the_time():
    budgets = [step_budget(2, prompts, LINEAR, 500) for prompts in (1, 2, 4, 16)]
    assert budgets[0] == budgets[1] < budgets[2] < budgets[3]
    assert LINEAR.at(budgets[3]) <= 9 * LINEAR.at(2) < LINEAR.at(budgets[3] + 1)


def test_a_long_prompt_is_cut_into_pieces_that_streams_hardly_notice():
    runner = FakeRunner(4, 512, 8)
    engine = Engine(runner, SchedulerLimits(8, 512, 256, 4, prompt_costs=LINEAR), 1000, frozenset())

    def add(sequence_id: int, prompt: list[int]) -> None:
        params = SamplingParams(max_tokens=200, ignore_eos=True)
        engine.add(Request(prompt_ids=prompt, params=params, choices=[Choice(sequence_id, 0)]))

    for stream in range(4):
        add(stream, [stream, 1, 2])
    engine.step()
    add(9, [7] * 300)
    num_steps = 0
    while 9 not in (step := engine.step()).sequence_ids:
        num_steps += 1
        assert step.sequence_ids == [0, 1, 2, 3], "the streams go on"
    assert 300 / (MIN_PROMPT_TOKENS + 1) - 2 <= num_steps <= 300 / MIN_PROMPT_TOKENS


def test_costs_are_measured_as_far_as_the_cache_and_the_context_reach(model_dir: Path) -> None:
    engine = make_engine(model_dir)

    def measure(num_blocks: int, max_model_len: int) -> StepCosts:
        return measure_prompt_costs(
            engine._runner, max_model_len=max_model_len, max_step_tokens=64, num_blocks=num_blocks, block_size=BLOCK
        )

    assert measure(64, MAX_MODEL_LEN).sizes == (1, 16, 64)
    assert measure(64, MAX_MODEL_LEN).costs[0] == 1.0
    assert measure(64 // BLOCK, MAX_MODEL_LEN).sizes == (1, 16)
    assert measure(64, 20) == UNKNOWN_COSTS
    assert alone(engine, prompt(20), GREEDY).token_ids, "the engine works after it"
