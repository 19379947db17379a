"""What the API needs of an engine, wherever that runs."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Literal, Protocol

import msgspec

from model.batch import SamplingParams
from model.grammar import Vocabulary
from server.engine.messages import ModelInfo, Output, Stats

Phase = Literal["starting", "ready", "draining", "restarting", "dead"]

NO_STATS = Stats(0, 0, 0, 0, 0, 0)


class EngineStatus(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """How the engine is, for health checks and metrics."""

    phase: Phase
    detail: str
    """What it is doing or why it stands still, in words."""
    fraction: float
    """How far the phase is, 0 to 1, while starting or restarting."""
    stats: Stats
    num_restarts: int
    num_in_flight: int
    """Sequences that were accepted and have not ended."""


class Generation(Protocol):
    """The outputs of one request, in the order they come; ends when every choice has its finish_reason."""

    def __aiter__(self) -> AsyncIterator[Output]: ...

    async def __anext__(self) -> Output: ...

    def finish(self, index: int) -> None:
        """Stop generating this choice. No more Outputs of it come."""


class Engine(Protocol):
    """What the API needs of an engine."""

    @property
    def model(self) -> ModelInfo | None:
        """None until the worker was ready once."""

    @property
    def status(self) -> EngineStatus:
        """How it is now."""

    def generate(
        self,
        prompt_ids: list[int],
        params: SamplingParams,
        *,
        num_choices: int = 1,
        priority: int = 0,
        cache_salt: str = "",
        prediction_ids: Sequence[int] = (),
    ) -> AbstractAsyncContextManager[Generation]:
        """Generate; leaving the block, for whatever reason, aborts what is not finished.

        Entering raises QueueFull, NotReady, Draining or EngineDead.
        """

    async def num_cached(self, prompt_ids: list[int], cache_salt: str) -> int | None:
        """Prompt tokens that a request would find in the prefix cache now. None if the worker has no time to say."""


class StartableEngine(Engine, Protocol):
    """An engine as whoever runs the API has it."""

    async def start(self, vocabulary: Callable[[ModelInfo], Vocabulary | None] | None = None) -> None:
        """Begin to start; `status` tells when it is ready.

        `vocabulary`, asked once, says what the model's tokens are as text; without it no request has a grammar.
        """

    async def stop(self) -> None:
        """End; requests still running end with an error."""
