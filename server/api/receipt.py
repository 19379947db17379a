"""Where the time of one request went."""

import time
from dataclasses import dataclass, field

from server.engine.messages import Output


@dataclass(slots=True)
class Receipt:
    """Filled while the request runs. Of several choices or prompts, the first counts:
    the parts follow on one another, and together they are the request's time."""

    num_cached: int = 0
    """Prompt tokens that were not computed because the cache had them."""
    is_complete: bool = False
    """Whether the last token is there."""
    _asked_at: float = field(default_factory=time.monotonic)
    """By time.monotonic(), as all times here."""
    _started_at: float | None = None
    _first_token_at: float | None = None
    _last_at: float | None = None

    @property
    def queue_s(self) -> float | None:
        """From the request to the start of its first step."""
        return _between(self._asked_at, self._started_at)

    @property
    def prefill_s(self) -> float | None:
        """From there to the first token."""
        return _between(self._started_at, self._first_token_at)

    @property
    def decode_s(self) -> float | None:
        """From there to the last token so far."""
        return _between(self._first_token_at, self._last_at)

    def take(self, output: Output, now: float) -> bool:
        """Note what came from the worker at this time. True for the first token."""
        self._last_at = now
        if self._first_token_at is not None or output.started_at is None:
            return False
        self._started_at, self._first_token_at = output.started_at, now
        return True

    def server_timing(self) -> str:
        """The parts that are over, as the header Server-Timing has them: milliseconds each."""
        parts = {
            "queue": self.queue_s,
            "prefill": self.prefill_s,
            "decode": self.decode_s if self.is_complete else None,
        }
        timed = [f"{name};dur={seconds * 1000:.2f}" for name, seconds in parts.items() if seconds is not None]
        return ", ".join([*timed, f'cached_tokens;desc="{self.num_cached}"'] if timed else [])


def _between(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else max(end - begin, 0.0)
