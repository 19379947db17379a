"""Streams that outlive their connection: events are kept for a client that comes back."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from starlette.requests import Request

from server.errors import InvalidRequest, NotFound, RequestError

logger = logging.getLogger(__name__)

# Streams that can be picked up at once. One more puts the oldest out, of those without a client if there are any.
MAX_STREAMS = 128
# Of each stream, the last events of this size together. A stream whose client is away pauses when they are full.
MAX_STREAM_BYTES = 2 * 2**20

Key = tuple[str, str]
"""Who asked (KeyRing.identify), and the request's id."""


def is_asked_to_keep(request: Request) -> bool:
    """Whether the client wants to be able to come back to the stream that it asks for."""
    return request.headers.get("x-resumable", "").lower() in ("1", "true")


class ResumableStreams:
    """The streams whose clients may come back."""

    def __init__(self, resume_s: float) -> None:
        """`resume_s`: how long a stream goes on, or stays readable, without a client; 0 for not at all."""
        self.is_on = resume_s > 0
        self._resume_s = resume_s
        self._streams: dict[Key, KeptStream] = {}
        """Oldest first."""

    def keep(self, owner: str, request_id: str, events: AsyncGenerator[bytes, None]) -> "KeptStream":
        """Run these events on their own from now on. Raises InvalidRequest while a stream of this id runs."""
        key = (owner, request_id)
        former = self._streams.get(key)
        if former is not None:
            if not former.is_finished:
                raise InvalidRequest("a stream with this x-request-id still runs", param="x-request-id")
            former.give_up()
        if len(self._streams) >= MAX_STREAMS:
            oldest = next((kept for kept in self._streams.values() if not kept.is_read), None)
            (oldest or next(iter(self._streams.values()))).give_up()
        kept = self._streams[key] = KeptStream(events, self._resume_s, lambda: self._forget(key, request_id))
        return kept

    def find(self, owner: str, request_id: str) -> "KeptStream":
        """The stream of this request. Raises NotFound, also for the stream of another key."""
        kept = self._streams.get((owner, request_id))
        if kept is None:
            raise NotFound(
                "no stream of this id is kept: it was not asked for with the header x-resumable, "
                f"or had no client for {self._resume_s:g} s, or {MAX_STREAMS} others came after it"
            )
        return kept

    def _forget(self, key: Key, request_id: str) -> None:
        if not self._streams.pop(key).is_finished:
            logger.info("event=stream_given_up id=%s", request_id)


class KeptStream:
    """One stream: a task takes its events in, and one connection at a time reads them."""

    def __init__(self, events: AsyncGenerator[bytes, None], resume_s: float, forget: Callable[[], None]) -> None:
        """`forget` is called once, when no connection may pick the stream up any more."""
        # The connection that asked for it reads first, in a moment: nobody else's stream may put it out until then.
        self.is_read = True
        self._resume_s = resume_s
        self._forget: Callable[[], None] | None = forget
        self._max_bytes = MAX_STREAM_BYTES
        self._kept: deque[bytes] = deque()
        self._num_bytes = 0
        self._num_dropped = 0
        self._num_read = 0
        """Events that went to a connection, those before its start included."""
        self._connection = 0
        """Counts connections; the last one reads."""
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._take_in(events))
        self._task.add_done_callback(self._end)
        self._timer = asyncio.get_running_loop().call_later(resume_s, self._expire)

    @property
    def is_finished(self) -> bool:
        """Whether no more events come."""
        return self._task.done()

    def is_over_after(self, last_id: int) -> bool:
        """Whether a client that has this event has all of them, with the [DONE] that follows the last."""
        return self.is_finished and last_id > self._num_events

    async def read(self, last_id: int = 0) -> AsyncGenerator[bytes, None]:
        """The events after number `last_id`, the first being number 1, and then what the events raised.

        Whoever reads now ends the former connection, which may be dead without the server knowing. Raises
        InvalidRequest for a number that was never given, NotFound for one too long ago.
        """
        if self._task.cancelled() or self._task.cancelling():
            raise NotFound("the stream was given up")
        if last_id > self._num_events:
            raise InvalidRequest("the stream has no event of this number", param="last-event-id")
        if last_id < self._num_dropped:
            raise NotFound("the stream's next event is no longer kept: too many came after it")
        self._connection += 1
        connection, self.is_read, self._num_read = self._connection, True, last_id
        self._timer.cancel()
        self._tell()
        try:
            while True:
                while self._num_read < self._num_events:
                    event = self._kept[self._num_read - self._num_dropped]
                    self._num_read += 1
                    self._tell()
                    yield event
                    self._check_is_last(connection)
                if self._task.done():
                    self._task.result()
                    return
                await self._changed.wait()
                self._check_is_last(connection)
        finally:
            if connection == self._connection:
                self._leave()

    def give_up(self) -> None:
        """Let nobody pick the stream up any more; end it if it has no client."""
        self._timer.cancel()
        if self._forget is not None:
            self._forget()
            self._forget = None
        # From here on an event is dropped once it was read.
        self._max_bytes = 0
        if not self.is_read:
            self._task.cancel()
        self._tell()

    @property
    def _num_events(self) -> int:
        return self._num_dropped + len(self._kept)

    async def _take_in(self, events: AsyncGenerator[bytes, None]) -> None:
        async with aclosing(events):
            async for event in events:
                while self._kept and self._num_bytes + len(event) > self._max_bytes:
                    if self._num_dropped < self._num_read:
                        self._num_bytes -= len(self._kept.popleft())
                        self._num_dropped += 1
                    else:
                        await self._changed.wait()
                self._kept.append(event)
                self._num_bytes += len(event)
                self._tell()

    def _end(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, RequestError) and not self.is_read:
            logger.error("event=stream_failed", exc_info=error)
        self._tell()

    def _check_is_last(self, connection: int) -> None:
        if connection != self._connection:
            raise InvalidRequest("another connection goes on with this stream")

    def _leave(self) -> None:
        self.is_read = False
        if self._forget is None:
            self.give_up()
        else:
            self._timer = asyncio.get_running_loop().call_later(self._resume_s, self._expire)

    def _expire(self) -> None:
        self.is_read = False
        self.give_up()

    def _tell(self) -> None:
        """Wake whoever waits for a change."""
        self._changed.set()
        self._changed = asyncio.Event()
