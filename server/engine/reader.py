"""Reading what one request generates, in the process that asked for it."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import suppress

from server.engine.messages import Output
from server.engine.pending import PendingChoice, PendingGeneration


class GenerationReader:
    """The outputs of one request as an async iterator (`interface.Generation`)."""

    def __init__(self, drop: Callable[[Iterable[PendingChoice]], object]) -> None:
        """`drop` makes the engine forget choices that nobody waits for."""
        self._drop = drop
        self._unread: dict[int, PendingChoice] = {}
        """The choices whose end was not read yet, by index."""
        self._news: deque[PendingChoice] = deque()
        self._waiter: asyncio.Future[None] | None = None
        # Asking for it at each wait is a system call (getpid, in Python 3.11).
        self._loop = asyncio.get_running_loop()

    def read(self, generation: PendingGeneration) -> None:
        """Read this request, which tells `tell` of its news."""
        self._unread = dict(generation.choices)

    def __aiter__(self) -> AsyncIterator[Output]:
        return self

    async def __anext__(self) -> Output:
        while not self._news:
            if not self._unread:
                raise StopAsyncIteration
            self._waiter = self._loop.create_future()
            await self._waiter
        choice = self._news.popleft()
        if choice.finished is not None:
            del self._unread[choice.index]
        return choice.take()

    def finish(self, index: int) -> None:
        """Stop generating this choice. No more Outputs of it come."""
        choice = self._unread.pop(index, None)
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
