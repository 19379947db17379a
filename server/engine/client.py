"""The API's side of the engine: requests in, outputs out, and a worker process kept alive between them."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Literal

from model.batch import SamplingParams
from model.grammar import Vocabulary
from server.engine.connection import WorkerConnection, WorkerDied
from server.engine.interface import NO_STATS, EngineStatus, Generation, Phase
from server.engine.messages import (
    Abort,
    Failed,
    Finished,
    Loading,
    Lookup,
    ModelInfo,
    Ready,
    Request,
    StepResult,
    Tokens,
)
from server.engine.pending import PendingChoice, PendingChoices, PendingGeneration
from server.engine.reader import GenerationReader
from server.errors import Draining, EngineDead, NotReady, QueueFull

logger = logging.getLogger(__name__)

# A request that was in the worker at this many deaths is run alone; at one more it is given up.
DEATHS_BEFORE_SOLO = 2
# Seconds before each new start of a worker that keeps dying; after the last one the client gives up.
RESTART_DELAYS_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0)
# A worker that lived this long without dying is healthy again.
HEALTHY_AFTER_S = 60.0
# Lookups that may wait for the worker at once, and how long one does: they are worth a step's time, no more.
MAX_LOOKUPS = 16
LOOKUP_TIMEOUT_S = 1.0


class EngineClient:
    """Runs a worker, feeds it requests, hands out what it answers, and starts a new one when it dies.

    Prompt and emitted tokens of every request are kept here, and a token is a function of prompt, parameters and
    position, so requests go on in the new worker where they stood.
    """

    def __init__(self, connect: Callable[[], WorkerConnection], *, max_waiting: int, hang_timeout_s: float) -> None:
        """`max_waiting`: sequences accepted beyond those that can run at once. `hang_timeout_s`: longest silence of a
        worker that has work before it is taken for dead."""
        self.model: ModelInfo | None = None
        self._connect = connect
        self._max_waiting = max_waiting
        self._hang_timeout_s = hang_timeout_s
        self._phase: Phase = "starting"
        self._detail = "starting the worker"
        self._fraction = 0.0
        self._stats = NO_STATS
        self._num_restarts = 0
        self._vocabulary: Callable[[ModelInfo], Vocabulary | None] | None = None
        self._tokens: Tokens | None = None
        self._choices = PendingChoices()
        self._generations: dict[int, PendingGeneration] = {}
        """Requests with unfinished sequences, by the id of their first."""
        self._held: deque[PendingGeneration] = deque()
        """Accepted, and not sent to the worker yet: it restarts, or another request runs alone."""
        self._solo: deque[PendingGeneration] = deque()
        """Requests that must run alone because workers died under them."""
        self._alone: PendingGeneration | None = None
        """The one of them that runs now."""
        self._next_id = 0
        self._lookups: dict[int, asyncio.Future[int]] = {}
        self._next_lookup = 0
        self._connection: WorkerConnection | None = None
        """To a worker that takes requests; None while it starts, and when it died."""
        self._ready_at: float | None = None
        """When the present worker became ready."""
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def status(self) -> EngineStatus:
        """How it is now."""
        return EngineStatus(
            phase=self._phase,
            detail=self._detail,
            fraction=self._fraction,
            stats=self._stats,
            num_restarts=self._num_restarts,
            num_in_flight=len(self._choices),
        )

    async def start(self, vocabulary: Callable[[ModelInfo], Vocabulary | None] | None = None) -> None:
        """Begin to start the worker; `status` tells when it is ready.

        `vocabulary`, asked once, says what the model's tokens are as text; without it no request has a grammar.
        """
        self._vocabulary = vocabulary
        self._supervisor = asyncio.create_task(self._supervise())

    @property
    def knows_tokens(self) -> bool:
        """Whether it was told what the model's tokens are as text."""
        return self._tokens is not None

    def know(self, tokens: Tokens) -> None:
        """Tell the worker, and each one after it, what grammars are made of."""
        self._tokens = tokens
        if self._connection is not None:
            self._connection.send(tokens)

    def drain(self) -> None:
        """Refuse new requests from now on; running ones go on."""
        self._phase, self._detail = "draining", "shutting down"

    async def stop(self) -> None:
        """End the worker; requests still running end with an error."""
        self.drain()
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
        self._fail(list(self._choices.by_id.values()), "the server shut down before this request was finished", "abort")

    @asynccontextmanager
    async def generate(
        self,
        prompt_ids: list[int],
        params: SamplingParams,
        *,
        num_choices: int = 1,
        priority: int = 0,
        cache_salt: str = "",
        prediction_ids: Sequence[int] = (),
    ) -> AsyncIterator[Generation]:
        """Generate; leaving the block, for whatever reason, aborts what is not finished."""
        request = Request.of(self._next_id, prompt_ids, params, num_choices, priority, cache_salt, prediction_ids)
        reader = GenerationReader(self.drop)
        generation = self.admit(request, reader.tell)
        self._next_id += num_choices
        reader.read(generation)
        try:
            yield reader
        finally:
            self.release(generation)

    def admit(self, request: Request, tell: Callable[[PendingChoice], None]) -> PendingGeneration:
        """Accept a request, whose sequences have ids that no other has, and have it run.

        `tell` is called with a choice that has something new. Raises QueueFull, NotReady, Draining or EngineDead.
        """
        self._check_admission(len(request.choices))
        generation = PendingGeneration(request, tell)
        self._choices.add(generation)
        self._generations[generation.id] = generation
        self._held.append(generation)
        self._send_held()
        return generation

    def release(self, generation: PendingGeneration) -> None:
        """Forget a request that was accepted, if it wasn't forgotten yet; what is not finished is aborted."""
        if self._generations.pop(generation.id, None) is None:
            return
        self.drop(list(generation.choices.values()))
        for queue in (self._held, self._solo):
            with suppress(ValueError):
                queue.remove(generation)
        self._send_held()

    def drop(self, choices: Iterable[PendingChoice]) -> None:
        """Stop generating these choices, and forget them."""
        ids = self._choices.drop(choices)
        if ids and self._connection is not None:
            self._connection.send(Abort(ids))

    async def num_cached(self, prompt_ids: list[int], cache_salt: str) -> int | None:
        """Prompt tokens that a request would find in the prefix cache now. None if the worker has no time to say."""
        if self._connection is None or self._phase != "ready" or len(self._lookups) >= MAX_LOOKUPS:
            return None
        lookup_id, self._next_lookup = self._next_lookup, self._next_lookup + 1
        answer: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._lookups[lookup_id] = answer
        self._connection.send(Lookup(lookup_id, prompt_ids, cache_salt))
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                return await answer
        except TimeoutError:
            return None
        finally:
            del self._lookups[lookup_id]

    def _check_admission(self, num_choices: int) -> None:
        if self._phase == "starting":
            raise NotReady(f"the model is not ready yet: {self._detail}")
        if self._phase == "draining":
            raise Draining("the server is shutting down")
        if self._phase == "dead":
            raise EngineDead(f"the model worker is not running: {self._detail}")
        assert self.model is not None
        limit = self.model.max_num_seqs + self._max_waiting
        if len(self._choices) + num_choices > limit:
            raise QueueFull(f"{len(self._choices)} of {limit} places are taken and {num_choices} more were asked for")

    def _send_held(self) -> None:
        """Send what waits here, unless a request must run alone first."""
        if self._connection is None:
            return
        if self._alone is not None and self._alone.choices:
            return
        self._alone = None
        if self._solo:
            if not self._is_worker_busy():
                self._alone = self._solo.popleft()
                logger.warning("event=solo_run num_deaths=%d", self._alone.num_deaths)
                self._send(self._alone)
            return
        while self._held:
            self._send(self._held.popleft())

    def _is_worker_busy(self) -> bool:
        unsent = {id(generation) for generation in [*self._held, *self._solo]}
        return any(id(choice.generation) not in unsent for choice in self._choices.by_id.values())

    def _send(self, generation: PendingGeneration) -> None:
        assert self._connection is not None
        for request in generation.to_requests():
            self._connection.send(request)

    async def _supervise(self) -> None:
        deaths = 0
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with self._connect() as connection:
                    await self._follow(connection)
            except WorkerDied as death:
                reason = str(death)
            except Exception as error:  # no folder for the socket, no memory for a process: as good as a death
                logger.exception("event=worker_failed")
                reason = f"couldn't be run: {error}"
            finally:
                self._connection = None
            if self._phase == "dead":
                return
            if self.model is None:
                self._give_up(f"the worker {reason} while it loaded the model")
                return
            if self._ready_at is not None and loop.time() - self._ready_at > HEALTHY_AFTER_S:
                deaths = 0
            self._ready_at = None
            deaths += 1
            logger.error("event=worker_died reason=%r in_flight=%d deaths=%d", reason, len(self._choices), deaths)
            if deaths >= len(RESTART_DELAYS_S):
                self._give_up(f"the worker died {deaths} times in a row, last: {reason}")
                return
            self._requeue_after_death()
            await asyncio.sleep(RESTART_DELAYS_S[deaths - 1])
            self._num_restarts += 1

    async def _follow(self, connection: WorkerConnection) -> None:
        """Take in what the worker says until it dies (WorkerDied) or can't start (phase dead)."""
        last_heard = asyncio.get_running_loop().time()
        while True:
            message = await connection.receive(timeout_s=1.0)
            now = asyncio.get_running_loop().time()
            if message is None:
                if self._choices and self._phase != "starting" and now - last_heard > self._hang_timeout_s:
                    connection.kill()
                    raise WorkerDied(f"no sign of life for {now - last_heard:.0f} s")
                if not self._choices:
                    last_heard = now
                continue
            last_heard = now
            match message:
                case StepResult():
                    self._take_step(message)
                case Loading():
                    self._detail, self._fraction = message.phase, message.fraction
                case Ready():
                    self._become_ready(connection, message.model)
                case Failed():
                    self._give_up(message.reason)
                    return

    def _become_ready(self, connection: WorkerConnection, model: ModelInfo) -> None:
        self._connection, self._ready_at = connection, asyncio.get_running_loop().time()
        self.model = model
        self._stats = NO_STATS
        if self._tokens is not None:
            connection.send(self._tokens)
        elif self._vocabulary is not None and (vocabulary := self._vocabulary(model)) is not None:
            self.know(Tokens(vocabulary))
        if self._phase != "draining":
            self._phase, self._detail, self._fraction = "ready", "serving", 1.0
        self._send_held()

    def _take_step(self, step: StepResult) -> None:
        choices = self._choices.by_id
        self._stats = step.stats
        for lookup_id, num_cached in step.num_cached.items():
            lookup = self._lookups.get(lookup_id)
            if lookup is not None and not lookup.done():
                lookup.set_result(num_cached)
        for started in step.started:
            choice = choices.get(started.sequence_id)
            if choice is not None and not choice.emitted:  # in a new worker it isn't started for the first time
                choice.num_cached = started.num_cached
                # The step's message comes at its end.
                choice.started_at = time.monotonic() - step.duration_s
        for sequence_id, entries in step.prompt_logprobs.items():
            if choice := choices.get(sequence_id):
                choice.prompt_logprobs += entries
        for sequence_id, token_id in zip(step.sequence_ids, step.token_ids, strict=True):
            choice = choices.get(sequence_id)
            if choice is not None:  # else it was dropped, and the worker hasn't read that yet
                choice.emitted.append(token_id)
                if step.logprobs and sequence_id in step.logprobs:
                    choice.logprobs.append(step.logprobs[sequence_id])
                choice.generation.tell(choice)
        for finished in step.finished:
            self._choices.end(finished)
        if step.finished and (self._held or self._solo):
            self._send_held()

    def _requeue_after_death(self) -> None:
        """Take every request back from a dead worker; the next one will go on with them."""
        if self._phase == "ready":
            self._phase = "restarting"
        self._detail, self._fraction = "starting a new worker", 0.0
        unsent = {id(generation) for generation in [*self._held, *self._solo]}
        again: list[PendingGeneration] = []
        for generation in self._generations.values():
            unfinished = list(generation.choices.values())
            if id(generation) in unsent or not unfinished:
                continue
            generation.num_deaths += 1
            if generation.num_deaths > DEATHS_BEFORE_SOLO:
                self._fail(unfinished, "the model worker died repeatedly while it ran this request")
            elif generation.num_deaths == DEATHS_BEFORE_SOLO:
                self._solo.append(generation)
            else:
                again.append(generation)
            for choice in unfinished:
                if not choice.emitted:
                    choice.prompt_logprobs = []
        self._held.extendleft(reversed(again))

    def _give_up(self, reason: str) -> None:
        self._phase, self._detail = "dead", reason
        self._held.clear()
        self._solo.clear()
        self._fail(list(self._choices.by_id.values()), "the model worker is not running")

    def _fail(self, choices: Iterable[PendingChoice], error: str, reason: Literal["error", "abort"] = "error") -> None:
        for choice in choices:
            self._choices.end(Finished(choice.sequence_id, reason, error))
