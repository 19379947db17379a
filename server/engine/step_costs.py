"""Measures what a step costs by its number of tokens, on the device and the model as they are."""

import time

from model.batch import Batch, Join, SamplingParams
from server.engine.drafting import NO_DRAFTS, StepCosts
from server.engine.engine import ResultsT, Runner

SIZES = (1, 4, 16)
CONTEXT = 32
REPEATS = 3


def measure_step_costs(runner: Runner[ResultsT], *, max_model_len: int, block_size: int) -> StepCosts:
    """Steps in which one sequence verifies 0, 3 and 15 drafts; NO_DRAFTS for a model whose context is too short.

    Uses slot 0 and the first blocks, which must not be in use.
    """
    num_tokens = CONTEXT + SIZES[-1]
    if num_tokens >= max_model_len:
        return NO_DRAFTS
    num_blocks = -(-num_tokens // block_size)
    params = SamplingParams(max_tokens=SIZES[-1], temperature=0)
    first = Batch(
        slots=[0],
        num_computed=[0],
        num_new=[CONTEXT],
        is_sampled=[False],
        joins=[Join(0, [0] * (CONTEXT + 1), CONTEXT + 1, 0, params)],
        block_slots=[0] * num_blocks,
        block_indexes=list(range(num_blocks)),
        block_ids=list(range(num_blocks)),
    )
    runner.read(runner.enqueue(first))
    times = [min(_step_time(runner, size) for _ in range(REPEATS)) for size in SIZES]
    return StepCosts(SIZES, tuple(seconds / times[0] for seconds in times))


def _step_time(runner: Runner[ResultsT], num_tokens: int) -> float:
    batch = Batch(slots=[0], num_computed=[CONTEXT], num_new=[num_tokens], is_sampled=[True])
    if num_tokens > 1:
        batch.drafts[0] = [0] * (num_tokens - 1)
    started = time.perf_counter()
    runner.read(runner.enqueue(batch))
    return time.perf_counter() - started
