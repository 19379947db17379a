"""The engine as an API process has it: a face of the one that the hub runs."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import msgspec
import zmq

from model.batch import SamplingParams
from model.grammar import Vocabulary
from server.engine.interface import NO_STATS, EngineStatus, Generation
from server.engine.messages import Abort, Lookup, ModelInfo, Request, Tokens
from server.engine.pending import PendingChoice, PendingChoices, PendingGeneration
from server.engine.reader import GenerationReader
from server.errors import Draining, EngineDead, NotReady, QueueFull
from server.hub.messages import (
    Admitted,
    AllCounts,
    Counts,
    Found,
    FromApi,
    Hello,
    News,
    PromptRead,
    Refused,
    Serving,
    ToApi,
    identity_of,
)
from server.message_socket import MessageSocket, decoded
from server.pace import Pace

logger = logging.getLogger(__name__)

# Each process numbers sequences on its own; this many are those of one.
_IDS_PER_PROCESS = 2**40
# How long the hub may take to answer what is worth a moment, no more.
ANSWER_TIMEOUT_S = 2.0

_REFUSALS = {kind.__name__: kind for kind in (QueueFull, NotReady, Draining, EngineDead)}
_UNKNOWN = EngineStatus(
    phase="starting", detail="starting", fraction=0.0, stats=NO_STATS, num_restarts=0, num_in_flight=0
)

T = TypeVar("T")


class RemoteEngine:
    """Sends requests to the hub and hands out what it answers (`interface.StartableEngine`).

    The hub admits requests and keeps them through the death of workers; here is only what their readers wait for.
    """

    def __init__(self, hub: str, serial: int) -> None:
        """`hub`: its ZeroMQ endpoint. `serial`: the number by which it knows this process."""
        self.model: ModelInfo | None = None
        self.status = _UNKNOWN
        self.pace = SharedPace(self.send)
        self._hub = hub
        self._serial = serial
        self._next_id = serial * _IDS_PER_PROCESS
        self._vocabulary: Callable[[ModelInfo], Vocabulary | None] | None = None
        self._choices = PendingChoices()
        self._admissions: dict[int, asyncio.Future[None]] = {}
        """Of requests that the hub has not answered yet, by the id of their first sequence."""
        self._questions: dict[int, asyncio.Future[Any]] = {}
        self._encode = msgspec.msgpack.Encoder().encode
        self._decoder: msgspec.msgpack.Decoder[ToApi] = msgspec.msgpack.Decoder(ToApi)

    def connect(self) -> None:
        """Make `send` usable."""
        self._socket = MessageSocket(zmq.DEALER, identity_of(self._serial))
        self._socket.connect(self._hub)

    def send(self, message: FromApi) -> None:
        """Queue a message for the hub."""
        self._socket.send(self._encode(message))

    async def start(self, vocabulary: Callable[[ModelInfo], Vocabulary | None] | None = None) -> None:
        """Tell the hub that this process is up, and listen."""
        self._vocabulary = vocabulary
        self._socket.listen(self._take)
        self.send(Hello())

    async def stop(self) -> None:
        """Nothing is to be ended here: the hub stops the engine."""

    def hang_up(self) -> None:
        """Make `send` unusable."""
        self._socket.close()

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
        self._next_id += num_choices
        reader = GenerationReader(self._drop)
        generation = PendingGeneration(request, reader.tell)
        reader.read(generation)
        self._choices.add(generation)
        try:
            await self._admission(generation)
            yield reader
        finally:
            self._drop(list(generation.choices.values()))

    async def num_cached(self, prompt_ids: list[int], cache_salt: str) -> int | None:
        """Prompt tokens that a request would find in the prefix cache now. None if nobody has time to say."""
        answer: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        return await self._ask(answer, lambda question: Lookup(question, prompt_ids, cache_salt))

    async def all_counts(self, text: str) -> list[str]:
        """What all API processes have counted, `text` being what this one has; that of others is a moment old.

        All come from the hub, so that counts never go back, whichever process is asked next. Raises TimeoutError.
        """
        answer: asyncio.Future[list[str]] = asyncio.get_running_loop().create_future()
        counts = await self._ask(answer, lambda question: Counts(text, question))
        if counts is None:
            raise TimeoutError("the hub did not answer")
        return counts

    async def _admission(self, generation: PendingGeneration) -> None:
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._admissions[generation.id] = answer
        self.send(generation.request)
        try:
            await answer
        finally:
            del self._admissions[generation.id]

    async def _ask(self, answer: "asyncio.Future[T]", message: Callable[[int], FromApi]) -> T | None:
        """The hub's answer; None if it comes too late."""
        question, self._next_id = self._next_id, self._next_id + 1
        self._questions[question] = answer
        self.send(message(question))
        try:
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                return await answer
        except TimeoutError:
            return None
        finally:
            del self._questions[question]

    def _drop(self, choices: Iterable[PendingChoice]) -> None:
        if ids := self._choices.drop(choices):
            self.send(Abort(ids))

    def _take(self, parts: list[bytes]) -> None:
        message = decoded(self._decoder, parts[0], "hub")
        match message:
            case News():
                self._take_news(message)
            case Admitted():
                _answer(self._admissions.get(message.id), None)
            case Refused():
                if (admission := self._admissions.get(message.id)) is not None and not admission.done():
                    admission.set_exception(_REFUSALS[message.kind](message.message))
            case EngineStatus():
                self.status = message
            case Serving():
                self._take_model(message)
            case Found():
                _answer(self._questions.get(message.lookup_id), message.num_cached)
            case AllCounts():
                _answer(self._questions.get(message.question), message.texts)
            case PromptRead():
                self.pace.hear(message)

    def _take_model(self, message: Serving) -> None:
        self.model = message.model
        # Before any request with a grammar is sent, for none is while there's no model.
        if message.needs_tokens and self._vocabulary is not None:
            vocabulary = self._vocabulary(message.model)
            if vocabulary is not None:
                self.send(Tokens(vocabulary))

    def _take_news(self, news: News) -> None:
        choices = self._choices.by_id
        for begun in news.begun:
            if choice := choices.get(begun.sequence_id):
                choice.num_cached, choice.started_at = begun.num_cached, time.monotonic() - begun.age_s
        for sequence_id, entries in news.prompt_logprobs.items():
            if choice := choices.get(sequence_id):
                choice.prompt_logprobs = entries
        for sequence_id, entries in news.logprobs.items():
            if choice := choices.get(sequence_id):
                choice.logprobs += entries
        for sequence_id, token_id in zip(news.sequence_ids, news.token_ids, strict=True):
            if choice := choices.get(sequence_id):  # else it was dropped, and the hub hasn't read that yet
                choice.emitted.append(token_id)
                choice.generation.tell(choice)
        for finished in news.finished:
            self._choices.end(finished)


class SharedPace(Pace):
    """Learns from the prompts of all processes."""

    def __init__(self, tell: Callable[[PromptRead], None]) -> None:
        super().__init__()
        self._tell = tell

    def note(self, num_tokens: int, prefill_s: float, queue_s: float) -> None:
        """A prompt of this process was read."""
        super().note(num_tokens, prefill_s, queue_s)
        self._tell(PromptRead(num_tokens, prefill_s, queue_s))

    def hear(self, read: PromptRead) -> None:
        """A prompt of another process was read."""
        super().note(read.num_tokens, read.prefill_s, read.queue_s)


def _answer(future: asyncio.Future[Any] | None, value: Any) -> None:
    """Give an answer to whoever still waits for it."""
    if future is not None and not future.done():
        future.set_result(value)
