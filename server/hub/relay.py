"""The hub's talk with the API processes: their requests to the engine, the engine's news to them."""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec
import zmq

from server.engine.client import EngineClient
from server.engine.interface import EngineStatus
from server.engine.messages import Abort, Failed, Finished, Lookup, ModelInfo, Request, Tokens
from server.engine.pending import PendingChoice
from server.errors import RequestError
from server.hub.exposition import summed
from server.hub.messages import (
    Admitted,
    AllCounts,
    Begun,
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

logger = logging.getLogger(__name__)

# How old the engine's status is at most in an API process. Requests are admitted by the hub, which knows better.
STATUS_PERIOD_S = 0.05
# An API process that says nothing for so long hangs: it tells its counts each second, and the longest that is known to
# keep it from that are bodies that are parsed in as many threads as there may be, 32, each in one call of some 0.2 s.
MAX_SILENCE_S = 20.0


@dataclass(slots=True, eq=False)
class _Peer:
    """One API process."""

    serial: int
    choices: dict[int, PendingChoice] = field(default_factory=dict)
    """Those whose end it was not told yet, by sequence id."""
    news: dict[int, PendingChoice] = field(default_factory=dict)
    """Those of which there is something to tell, by sequence id."""
    counts: str = ""
    silence_s: float | None = None
    """For how long it said nothing while the hub ran; None until it says something."""

    @property
    def identity(self) -> bytes:
        """What ZeroMQ calls its socket."""
        return identity_of(self.serial)


class Relay:
    """Lets API processes use the engine as if it were their own.

    The engine's client stays the one place that knows of all requests. What a step brought is sent on in one message
    to each process that has a part in it.
    """

    def __init__(
        self,
        engine: EngineClient,
        address: str,
        on_up: Callable[[int], None],
        on_failed: Callable[[int, str], None],
        on_silent: Callable[[int], None],
    ) -> None:
        """`on_up` is called with the serial number of a process that is up, `on_failed` with that of one that can't
        serve the model, and its reason, `on_silent` with that of one that hangs."""
        self._engine = engine
        self._address = address
        self._on_up = on_up
        self._on_failed = on_failed
        self._on_silent = on_silent
        self._peers: dict[bytes, _Peer] = {}
        self._counts_of_the_gone = ""
        self._told_model: ModelInfo | None = None
        self._told_status: EngineStatus | None = None
        self._lookups: set[asyncio.Task[None]] = set()
        self._encode = msgspec.msgpack.Encoder().encode
        self._decoder: msgspec.msgpack.Decoder[FromApi] = msgspec.msgpack.Decoder(FromApi)

    def expect(self, serial: int) -> None:
        """A process of this number is starting. No other's messages are read."""
        peer = _Peer(serial)
        self._peers[peer.identity] = peer

    def forget(self, serial: int) -> None:
        """The process has ended: so do its requests, and what it counted is kept."""
        peer = self._peers.pop(identity_of(serial))
        self._abort(peer, list(peer.choices))
        self._counts_of_the_gone = summed([self._counts_of_the_gone, peer.counts])

    async def run(self) -> None:
        """Talk, until cancelled."""
        self._loop = asyncio.get_running_loop()
        self._socket = MessageSocket(zmq.ROUTER)
        try:
            self._socket.bind(self._address)
            self._socket.listen(self._take)
            while True:
                self._tell_status()
                self._note_silence()
                await asyncio.sleep(STATUS_PERIOD_S)
        finally:
            self._socket.close()

    def _take(self, parts: list[bytes]) -> None:
        identity, data = parts
        if (peer := self._peers.get(identity)) is None:
            return
        peer.silence_s = 0.0
        message = decoded(self._decoder, data, "api_process")
        match message:
            case Request():
                self._admit(peer, message)
            case Abort():
                self._abort(peer, message.sequence_ids)
            case Lookup():
                lookup = asyncio.create_task(self._look_up(peer, message))
                self._lookups.add(lookup)
                lookup.add_done_callback(self._lookups.discard)
            case Tokens():
                if not self._engine.knows_tokens:
                    self._engine.know(message)
            case Counts():
                peer.counts = message.text
                if message.question is not None:
                    texts = [self._counts_of_the_gone, *(other.counts for other in self._peers.values())]
                    self._send(peer, AllCounts(message.question, texts))
            case PromptRead():
                for other in self._peers.values():
                    if other is not peer:
                        self._send(other, message)
            case Hello():
                self._send(peer, self._engine.status)
                if self._engine.model is not None:
                    self._send(peer, Serving(self._engine.model, not self._engine.knows_tokens))
                self._on_up(peer.serial)
            case Failed():
                self._on_failed(peer.serial, message.reason)

    def _admit(self, peer: _Peer, request: Request) -> None:
        def note(choice: PendingChoice) -> None:
            # All that one step brings comes before the loop's next turn.
            if not peer.news:
                self._loop.call_soon(self._tell_news, peer)
            peer.news[choice.sequence_id] = choice

        try:
            generation = self._engine.admit(request, note)
        except RequestError as error:
            self._send(peer, Refused(request.choices[0].sequence_id, type(error).__name__, error.message))
            return
        peer.choices |= {choice.sequence_id: choice for choice in generation.choices.values()}
        self._send(peer, Admitted(generation.id))

    def _abort(self, peer: _Peer, sequence_ids: Sequence[int]) -> None:
        choices = [peer.choices.pop(i) for i in sequence_ids if i in peer.choices]
        self._engine.drop(choices)
        self._release(choices)

    def _release(self, choices: Sequence[PendingChoice]) -> None:
        for choice in choices:
            if not choice.generation.choices:
                self._engine.release(choice.generation)

    async def _look_up(self, peer: _Peer, lookup: Lookup) -> None:
        num_cached = await self._engine.num_cached(lookup.prompt_ids, lookup.cache_salt)
        self._send(peer, Found(lookup.lookup_id, num_cached))

    def _tell_news(self, peer: _Peer) -> None:
        choices, peer.news = peer.news, {}
        self._send(peer, _news(choices))
        ended = [choice for choice in choices.values() if choice.finished is not None]
        for choice in ended:
            peer.choices.pop(choice.sequence_id, None)
        self._release(ended)

    def _tell_status(self) -> None:
        if self._engine.model is not self._told_model and self._engine.model is not None:
            self._told_model = self._engine.model
            self._broadcast(Serving(self._engine.model, not self._engine.knows_tokens))
        if (status := self._engine.status) != self._told_status:
            self._told_status = status
            self._broadcast(status)

    def _note_silence(self) -> None:
        for peer in self._peers.values():
            if peer.silence_s is None:
                continue
            # Not by a clock, which goes on while the machine is suspended or this process stopped.
            peer.silence_s += STATUS_PERIOD_S
            if peer.silence_s > MAX_SILENCE_S:
                peer.silence_s = 0.0
                self._on_silent(peer.serial)

    def _broadcast(self, message: ToApi) -> None:
        for peer in self._peers.values():
            self._send(peer, message)

    def _send(self, peer: _Peer, message: ToApi) -> None:
        self._socket.send(peer.identity, self._encode(message))


def _news(choices: dict[int, PendingChoice]) -> News:
    """What these choices gained since they were last asked."""
    sequence_ids: list[int] = []
    token_ids: list[int] = []
    begun: list[Begun] = []
    finished: list[Finished] = []
    news = News(sequence_ids, token_ids, begun, finished, {}, {})
    for sequence_id, choice in choices.items():
        if not choice.num_read and choice.started_at is not None:
            begun.append(Begun(sequence_id, choice.num_cached, time.monotonic() - choice.started_at))
            if choice.prompt_logprobs:
                news.prompt_logprobs[sequence_id] = choice.prompt_logprobs
        new = choice.emitted[choice.num_read :]
        choice.num_read += len(new)
        sequence_ids += [sequence_id] * len(new)
        token_ids += new
        if choice.logprobs:
            news.logprobs[sequence_id], choice.logprobs = choice.logprobs, []
        if choice.finished is not None:
            finished.append(choice.finished)
    return news
