"""Time of the scheduler and block pool alone: median and 99th percentile of a step with N sequences that decode.

python benchmarks/scheduler.py
"""

import random
import statistics
import time

from model.batch import NOT_SAMPLED, SamplingParams, StepOutput
from server.engine.scheduler import Scheduler, SchedulerLimits
from server.engine.sequence import Sequence


def step_times(num_seqs: int) -> list[float]:
    """Seconds that `schedule` and `update` took together, for each step in which all sequences decode."""
    rng = random.Random(0)
    scheduler = Scheduler(SchedulerLimits(num_seqs, max(2048, num_seqs), num_seqs * 40, 16))
    for number in range(num_seqs):
        prompt = [rng.randrange(1000) for _ in range(128)]
        scheduler.add(Sequence(number, prompt, 128, SamplingParams(max_tokens=400), frozenset({5000})))
    times = []
    while scheduler.has_work:
        started = time.perf_counter()
        batch = scheduler.schedule()
        scheduled = time.perf_counter()
        output = StepOutput([1 if is_sampled else NOT_SAMPLED for is_sampled in batch.is_sampled])
        computed = time.perf_counter()
        scheduler.update(output)
        ended = time.perf_counter()
        if not batch.joins and len(batch.slots) == num_seqs:
            times.append(scheduled - started + ended - computed)
    return times


if __name__ == "__main__":
    for count in (16, 64, 256):
        times = sorted(step_times(count))
        print(
            f"{count:>4} sequences: median {statistics.median(times) * 1e6:.0f} us, "
            f"99 % {times[len(times) * 99 // 100] * 1e6:.0f} us a step"
        )
