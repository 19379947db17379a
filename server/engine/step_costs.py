"""Measures what a step costs by its number of tokens, on the device and the model as they are."""

import time

from model.batch import Batch, Join, Proposal, SamplingParams
from server.engine.drafting import NO_DRAFTS, StepCosts
from server.engine.engine import ResultsT, Runner

SIZES = (1, 4, 16)
CONTEXT = 32
NUM_TOKENS = CONTEXT + SIZES[-1]
REPEATS = 3
# Of a prompt; more are not tried once a step takes longer than this, but taken to cost as much again.
PROMPT_SIZES = (1, 16, 64, 256, 1024, 4096)
LONGEST_STEP_S = 0.1


def measure_step_costs(runner: Runner[ResultsT], *, max_model_len: int, block_size: int) -> StepCosts:
    """Steps in which one sequence verifies 0, 3 and 15 drafts; NO_DRAFTS for a model whose context is too short.

    Uses slot 0 and the first blocks, which must not be in use.
    """
    if max_model_len <= NUM_TOKENS:
        return NO_DRAFTS
    runner.read(runner.enqueue(_first_batch(block_size)))
    times = [_step_time(runner, size) for size in SIZES]
    return StepCosts(SIZES, tuple(seconds / times[0] for seconds in times))


def measure_prompt_costs(
    runner: Runner[ResultsT], *, max_model_len: int, max_step_tokens: int, num_blocks: int, block_size: int
) -> StepCosts:
    """Steps in which one sequence computes so many tokens of its prompt, up to the largest that is quick.

    Uses slot 0 and the first blocks, which must not be in use.
    """
    most = min(max_step_tokens, min(max_model_len, num_blocks * block_size) - CONTEXT - 1)
    sizes = [size for size in PROMPT_SIZES if size <= most]
    if not sizes:
        return NO_DRAFTS
    runner.read(runner.enqueue(_first_batch(block_size, CONTEXT + sizes[-1])))
    times: list[float] = []
    for size in sizes:
        batch = Batch(slots=[0], num_computed=[CONTEXT], num_new=[size], is_sampled=[True])
        times.append(min(_seconds(runner, batch) for _ in range(REPEATS)))
        if times[-1] > LONGEST_STEP_S and len(times) > 1:
            break
    return StepCosts(tuple(sizes[: len(times)]), tuple(seconds / times[0] for seconds in times))


def measure_draft_costs(runner: Runner[ResultsT], *, max_model_len: int, block_size: int) -> StepCosts | None:
    """What the draft model of a runner that has one needs for 1, 4 and 16 tokens, relative to a step of one token.

    None, and other conditions, as for `measure_step_costs`.
    """
    if max_model_len <= NUM_TOKENS:
        return None
    first = _first_batch(block_size)
    first.proposals[0] = Proposal(0, CONTEXT)
    runner.read(runner.enqueue(first))
    # Both verify one guess; the draft model makes the one, after having computed so many tokens.
    given, step = _step_time(runner, 2), _step_time(runner, 1)
    times = [_step_time(runner, 2, Proposal(CONTEXT + 1 - size, size, 1)) - given for size in SIZES]
    return StepCosts(SIZES, tuple(max(0.0, seconds / step) for seconds in times))


def _first_batch(block_size: int, num_tokens: int = NUM_TOKENS) -> Batch:
    """All that comes before the step that is measured, up to which there will be so many tokens."""
    num_blocks = -(-num_tokens // block_size)
    params = SamplingParams(max_tokens=SIZES[-1], temperature=0)
    return Batch(
        slots=[0],
        num_computed=[0],
        num_new=[CONTEXT],
        is_sampled=[False],
        joins=[Join(0, [0] * (CONTEXT + 1), CONTEXT + 1, 0, params)],
        block_slots=[0] * num_blocks,
        block_indexes=list(range(num_blocks)),
        block_ids=list(range(num_blocks)),
    )


def _step_time(runner: Runner[ResultsT], num_tokens: int, proposal: Proposal | None = None) -> float:
    """Seconds, at best, of a step that verifies all but one of its tokens: given ones, or those proposed."""
    batch = Batch(slots=[0], num_computed=[CONTEXT], num_new=[num_tokens], is_sampled=[True])
    if proposal is not None:
        batch.proposals[0] = proposal
    elif num_tokens > 1:
        batch.drafts[0] = [0] * (num_tokens - 1)
    return min(_seconds(runner, batch) for _ in range(REPEATS))


def _seconds(runner: Runner[ResultsT], batch: Batch) -> float:
    started = time.perf_counter()
    runner.read(runner.enqueue(batch))
    return time.perf_counter() - started
