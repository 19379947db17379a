"""Requests that the client has accepted, with all that a new worker would need to go on with them."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress

import msgspec

from model.batch import TokenLogprobs
from server.engine.messages import Choice, Finished, Output, Request


class PendingChoice:
    """One sequence as the client sees it: enough to go on with it in a new worker."""

    __slots__ = (
        "emitted",
        "finished",
        "generation",
        "index",
        "logprobs",
        "num_cached",
        "num_read",
        "prompt_logprobs",
        "sequence_id",
        "started_at",
    )

    def __init__(self, generation: "PendingGeneration", index: int, sequence_id: int) -> None:
        self.generation = generation
        self.index = index
        self.sequence_id = sequence_id
        self.emitted: list[int] = []
        self.num_read = 0
        self.num_cached = 0
        self.started_at: float | None = None
        self.logprobs: list[TokenLogprobs] = []
        self.prompt_logprobs: list[TokenLogprobs] = []
        self.finished: Finished | None = None

    def take(self) -> Output:
        """Everything since the last call."""
        params, first = self.generation.request.params, self.num_read == 0
        output = Output(
            index=self.index,
            token_ids=self.emitted[self.num_read :],
            num_cached=self.num_cached,
            started_at=self.started_at,
        )
        self.num_read = len(self.emitted)
        if params.logprobs is not None:
            output.logprobs, self.logprobs = self.logprobs, []
        if params.prompt_logprobs is not None and first:
            output.prompt_logprobs = self.prompt_logprobs
        if self.finished is not None:
            output.finish_reason = self.finished.reason
            output.stop_token_id = self.finished.stop_token_id
            output.error = self.finished.error
            output.num_accepted, output.num_rejected = self.finished.num_accepted, self.finished.num_rejected
        return output


class PendingGeneration:
    """The outputs of one request as an async iterator."""

    def __init__(self, request: Request, drop: Callable[[Iterable[PendingChoice]], None]) -> None:
        """`request` has no choices yet. `drop` makes the engine forget choices that nobody waits for."""
        self.request = request
        self.choices: dict[int, PendingChoice] = {}
        """The choices whose end was not read yet, by index."""
        self.num_deaths = 0
        """How many workers died while they had this request."""
        self._drop = drop
        self._news: deque[PendingChoice] = deque()
        self._waiter: asyncio.Future[None] | None = None
        # Asking for it at each wait is a system call (getpid, in Python 3.11).
        self._loop = asyncio.get_running_loop()

    def __aiter__(self) -> AsyncIterator[Output]:
        return self

    async def __anext__(self) -> Output:
        while not self._news:
            if not self.choices:
                raise StopAsyncIteration
            self._waiter = self._loop.create_future()
            await self._waiter
        choice = self._news.popleft()
        if choice.finished is not None:
            del self.choices[choice.index]
        return choice.take()

    def finish(self, index: int) -> None:
        """Stop generating this choice. No more Outputs of it come."""
        choice = self.choices.pop(index, None)
        if choice is not None:
            with suppress(ValueError):
                self._news.remove(choice)
            self._drop([choice])

    def tell(self, choice: PendingChoice) -> None:
        """Note that a choice has something new to read."""
        if choice not in self._news:
            self._news.append(choice)
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def to_requests(self) -> list[Request]:
        """What a worker must be sent to generate all that is missing."""
        pending = [choice for choice in self.choices.values() if choice.finished is None]
        begun = [choice for choice in pending if choice.emitted]
        fresh = [choice for choice in pending if not choice.emitted]
        # Who has tokens has the prompt's log-probabilities as well.
        params = msgspec.structs.replace(self.request.params, prompt_logprobs=None)
        return [
            msgspec.structs.replace(request, choices=[Choice(c.sequence_id, c.index, c.emitted) for c in choices])
            for request, choices in (
                (msgspec.structs.replace(self.request, params=params), begun),
                (self.request, fresh),
            )
            if choices
        ]
