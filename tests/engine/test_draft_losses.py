"""Guesses from the text cost at most 2 % where they are wrong, on any text, at any load, whatever a step costs."""

import itertools
import random
from collections.abc import Callable

import pytest

from model.batch import NOT_SAMPLED, SamplingParams, StepOutput
from server.engine.drafting import Drafter, StepCosts
from server.engine.scheduler import Scheduler, SchedulerLimits
from server.engine.sequence import Sequence

PROMPT_LEN, OUTPUT_LEN, BLOCK = 64, 400, 16
VOCAB = 50_000
WORDS = list(range(2000))
FREQUENCIES = [1 / (rank + 1) for rank in WORDS]

Texts = Callable[[random.Random], list[int]]


def phrases(rng: random.Random, num_tokens: int) -> list[int]:
    """Few sayings of ten tokens, one after the other at random: each end is guessed wrong."""
    sayings = [[rng.randrange(VOCAB) for _ in range(10)] for _ in range(6)]
    return list(itertools.chain.from_iterable(rng.choice(sayings) for _ in range(num_tokens)))[:num_tokens]


LENGTH = PROMPT_LEN + OUTPUT_LEN
TEXTS: dict[str, Texts] = {
    "never repeats": lambda rng: rng.sample(range(VOCAB), LENGTH),
    "drawn from all tokens": lambda rng: rng.choices(range(VOCAB), k=LENGTH),
    "words as often as in a language": lambda rng: rng.choices(WORDS, FREQUENCIES, k=LENGTH),
    "drawn from few": lambda rng: rng.choices(range(4), k=LENGTH),
    "one token, at times another": lambda rng: rng.choices(range(2), (8, 1), k=LENGTH),
    "sayings": lambda rng: phrases(rng, LENGTH),
    "repeats, then never again": lambda rng: [*([7, 8, 9] * 80), *rng.sample(range(VOCAB), LENGTH - 240)],
}
COSTS = {
    # A step of one row reads all weights; those of a model of 135 M parameters on two cores, as measured.
    "of a processor": StepCosts((1, 2, 4, 8, 16, 32, 64), (1.0, 1.05, 1.2, 1.5, 2.2, 3.5, 6.5)),
    "of memory alone": StepCosts((1, 64), (1.0, 1.1)),
    "of arithmetic alone": StepCosts((1, 64), (1.0, 64.0)),
}


def time_of(texts: list[list[int]], costs: StepCosts, *, drafts: bool) -> float:
    """What the steps cost in which all sequences decode, together."""
    count = len(texts)
    limits = SchedulerLimits(count, 2048, count * (-(-LENGTH // BLOCK) + 1), BLOCK, step_costs=costs)
    scheduler = Scheduler(limits)
    for number, text in enumerate(texts):
        prompt = text[:PROMPT_LEN]
        params = SamplingParams(max_tokens=OUTPUT_LEN, ignore_eos=True, seed=number)
        drafter = Drafter([], prompt) if drafts else None
        scheduler.add(Sequence(number, prompt, PROMPT_LEN, params, frozenset({-5}), drafter=drafter))
    holders: dict[int, list[int]] = {}
    spent = 0.0
    while scheduler.has_work:
        batch = scheduler.schedule()
        holders |= {join.slot: texts[join.params.seed] for join in batch.joins}
        if not batch.joins:
            spent += costs.at(sum(batch.num_new))
        output = StepOutput([NOT_SAMPLED] * len(batch.slots))
        for row, slot in enumerate(batch.slots):
            if not batch.is_sampled[row]:
                continue
            guess = batch.drafts.get(row, [])
            end = batch.num_computed[row] + batch.num_new[row] - len(guess)
            drawn = [*holders[slot][end:], 0]
            num_right = next((i for i, token_id in enumerate(guess) if token_id != drawn[i]), len(guess))
            output.token_ids[row] = drawn[0]
            if guess:
                output.accepted[row] = drawn[1 : num_right + 1]
        scheduler.update(output)
    return spent


@pytest.mark.parametrize("count", [1, 8, 16])
@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("text", TEXTS)
def test_guesses_are_never_slower_by_more_than_two_percent(text: str, cost: str, count: int) -> None:
    rng = random.Random(0)
    texts = [TEXTS[text](rng) for _ in range(count)]
    with_drafts, without = (time_of(texts, COSTS[cost], drafts=drafts) for drafts in (True, False))
    assert without / with_drafts > 0.98
