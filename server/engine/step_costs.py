"""Measures what a step costs by its number of tokens, on the device and the model as they are."""

import time
from itertools import accumulate

from model.batch import Batch, Join, Proposal, SamplingParams
from server.engine.drafting import UNKNOWN_COSTS, StepCosts
from server.engine.engine import ResultsT, Runner

SIZES = (1, 4, 16)
CONTEXT = 32
NUM_TOKENS = CONTEXT + SIZES[-1]
REPEATS = 3
# Sizes are measured in turn for so long, if steps are quick: another program that takes a core for a moment makes large
# steps slower and small ones not, and what is measured here decides for as long as the server runs.
MEASURED_S = 0.3
MAX_REPEATS = 20
# Of a prompt; more are not tried once a step takes longer than this, but taken to cost as much again.
PROMPT_SIZES = (1, 16, 64, 256, 1024, 4096)
LONGEST_STEP_S = 0.1
NUM_GUESSES = 4


def measure_step_costs(runner: Runner[ResultsT], *, max_model_len: int, block_size: int) -> StepCosts:
    """Steps in which one sequence verifies 0, 3 and 15 drafts; UNKNOWN_COSTS for a model whose context is too short.

    Uses slot 0 and the first blocks, which must not be in use.
    """
    if max_model_len <= NUM_TOKENS:
        return UNKNOWN_COSTS
    runner.read(runner.enqueue(_first_batch(block_size)))
    times = _step_times(runner, [_step(size - 1) for size in SIZES])
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
        return UNKNOWN_COSTS
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
    # Differences of times are rough, so several steps are in them: guesses given, and made after 1, 4 and 16 tokens.
    proposals = [Proposal(CONTEXT + 1 - size, size, NUM_GUESSES) for size in SIZES]
    alone, given, *made = _step_times(runner, [_step(0), _step(NUM_GUESSES), *map(_proposing_step, proposals)])
    one = (made[0] - given) / NUM_GUESSES
    costs = [max(0.0, one + seconds - made[0]) / alone for seconds in made]
    return StepCosts(SIZES, tuple(accumulate(costs, max)))


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


def _step(num_drafts: int) -> Batch:
    batch = Batch(slots=[0], num_computed=[CONTEXT], num_new=[1 + num_drafts], is_sampled=[True])
    if num_drafts:
        batch.drafts[0] = [0] * num_drafts
    return batch


def _proposing_step(proposal: Proposal) -> Batch:
    batch = _step(0)
    batch.num_new[0] += proposal.num_tokens
    batch.proposals[0] = proposal
    return batch


def _step_times(runner: Runner[ResultsT], batches: list[Batch]) -> list[float]:
    """Seconds that each takes at best, measured in turn: what else the machine does slows all of them."""
    rounds: list[list[float]] = []
    while len(rounds) < REPEATS or (len(rounds) < MAX_REPEATS and sum(map(sum, rounds)) < MEASURED_S):
        rounds.append([_seconds(runner, batch) for batch in batches])
    return [min(times) for times in zip(*rounds, strict=True)]


def _seconds(runner: Runner[ResultsT], batch: Batch) -> float:
    started = time.perf_counter()
    runner.read(runner.enqueue(batch))
    return time.perf_counter() - started
