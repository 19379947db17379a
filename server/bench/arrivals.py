"""When the requests of an open loop are sent."""

import random
from typing import Literal

Arrivals = Literal["fixed", "poisson"]


def arrival_times(count: int, rate: float, kind: Arrivals, seed: str) -> list[float]:
    """Seconds from the start for `count` requests, `rate` a second: evenly apart, or a Poisson process' first ones."""
    if kind == "fixed":
        return [number / rate for number in range(count)]
    rng = random.Random(seed)
    times, now = [], 0.0
    for _ in range(count):
        now += rng.expovariate(rate)
        times.append(now)
    return times
