"""How fast a model reads prompts, learned from those it has read lately."""

from dataclasses import dataclass

# What each request leaves of the weight of those before it: about the last fifty count.
_DECAY = 0.98


@dataclass(slots=True)
class Pace:
    """A line fitted to (tokens computed, seconds to the first token), the latest requests weighing most.

    It has two parameters since a prompt costs something however short it is.
    """

    _sums: tuple[float, ...] = (0.0,) * 6
    """Of 1, tokens, seconds, tokens squared, tokens times seconds, and seconds in the queue."""

    def note(self, num_tokens: int, prefill_s: float, queue_s: float) -> None:
        """A prompt was read: so many tokens were computed in this time, after this time in the queue."""
        new = (1, num_tokens, prefill_s, num_tokens**2, num_tokens * prefill_s, queue_s)
        self._sums = tuple(_DECAY * old + value for old, value in zip(self._sums, new, strict=True))

    def expected_ttft_s(self, num_tokens: int, *, is_queue_empty: bool) -> float | None:
        """Seconds to the first token of a prompt with so many tokens to compute. None before any was read."""
        weight = self._sums[0]
        if not weight:
            return None
        tokens, seconds, tokens_squared, tokens_seconds, queue_s = (value / weight for value in self._sums[1:])
        variance = tokens_squared - tokens**2
        covariance = tokens_seconds - tokens * seconds
        # Lengths that hardly differ, or noise that tilts the line the wrong way, tell of the mean alone.
        slope = covariance / variance if variance > 1 and covariance > 0 else seconds / max(tokens, 1)
        at_zero = max(seconds - slope * tokens, 0.0)
        return at_zero + slope * num_tokens + (0.0 if is_queue_empty else queue_s)
