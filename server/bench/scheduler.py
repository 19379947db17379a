"""`nexttoken bench scheduler`: the scheduler and block pool alone, over sequences that decode."""

import random
import time
from collections.abc import Sequence as Many
from typing import Any

from model.batch import NOT_SAMPLED, SamplingParams, StepOutput
from server.bench.percentiles import percentile
from server.bench.table import table
from server.engine.scheduler import Scheduler, SchedulerLimits
from server.engine.sequence import Sequence

_PROMPT_LEN, _OUTPUT_LEN = 128, 400
_BLOCK_SIZE = 16


def bench_scheduler(num_sequences: Many[int]) -> list[dict[str, Any]]:
    """Measure with each number of sequences, print a line for each."""
    results = []
    for count in num_sequences:
        times_us = [seconds * 1e6 for seconds in _step_times(count)]
        results.append({"sequences": count} | {f"p{percent}_us": percentile(times_us, percent) for percent in (50, 99)})
    print(table(["sequences", "us/step p50", "p99"], [list(result.values()) for result in results]))
    return results


def _step_times(num_sequences: int) -> list[float]:
    """Seconds that `schedule` and `update` took together, for each step in which all sequences decode."""
    rng = random.Random(0)
    num_blocks = num_sequences * -(-(_PROMPT_LEN + _OUTPUT_LEN) // _BLOCK_SIZE)
    scheduler = Scheduler(SchedulerLimits(num_sequences, max(2048, num_sequences), num_blocks, _BLOCK_SIZE))
    for number in range(num_sequences):
        prompt = [rng.randrange(1000) for _ in range(_PROMPT_LEN)]
        params = SamplingParams(max_tokens=_OUTPUT_LEN)
        scheduler.add(Sequence(number, prompt, len(prompt), params, frozenset({5000})))
    times = []
    while scheduler.has_work:
        started = time.perf_counter()
        batch = scheduler.schedule()
        scheduled = time.perf_counter()
        output = StepOutput([1 if is_sampled else NOT_SAMPLED for is_sampled in batch.is_sampled])
        computed = time.perf_counter()
        scheduler.update(output)
        ended = time.perf_counter()
        if not batch.joins and len(batch.slots) == num_sequences:
            times.append(scheduled - started + ended - computed)
    return times
