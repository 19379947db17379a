"""What crosses the border between the hub and the API processes: msgspec structs, never pickle."""

from typing import Any

import msgspec

from model.batch import TokenLogprobs
from server.engine.interface import EngineStatus
from server.engine.messages import Abort, Failed, Finished, Lookup, ModelInfo, Request, Tokens


class ApiProcessConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What an API process is started with."""

    settings: dict[str, Any]
    directory: str
    """Of the model."""
    draft_directory: str | None
    created: int
    """The Unix time since which the model is served."""
    hub: str = ""
    """The hub's ZeroMQ endpoint."""
    sockets: list[str] = []
    """Where each API process listens for the others, by their places."""
    place: int = 0
    """Which of them this is. One that takes a dead one's place has the same."""
    serial: int = 0
    """Which of all that were ever started this is."""
    dealt_fd: int = -1
    """The socket over which connections come."""
    private_fd: int = -1
    """The listening socket of its place."""


class Hello(msgspec.Struct, frozen=True, tag=True):
    """This API process is up, and can be dealt connections."""


class Counts(msgspec.Struct, frozen=True, tag=True):
    """All that an API process has counted since it started, in Prometheus' text format."""

    text: str
    question: int | None = None
    """If given, the hub answers with the AllCounts of this number."""


class PromptRead(msgspec.Struct, frozen=True, tag=True):
    """What a prompt took to be read, for every process' estimate (pace.Pace)."""

    num_tokens: int
    prefill_s: float
    queue_s: float


class Serving(msgspec.Struct, frozen=True, tag=True):
    """The worker is ready, for the first time or with another model."""

    model: ModelInfo
    needs_tokens: bool
    """Whether the hub was not told yet what the model's tokens are as text."""


class Admitted(msgspec.Struct, frozen=True, tag=True):
    """A request was accepted."""

    id: int
    """That of its first sequence."""


class Refused(msgspec.Struct, frozen=True, tag=True):
    """A request was not accepted."""

    id: int
    kind: str
    """The name of one of the classes in server.errors."""
    message: str


class Begun(msgspec.Struct, frozen=True, array_like=True):
    """What is known of a sequence once it has its first token."""

    sequence_id: int
    num_cached: int
    """Prompt tokens found in the prefix cache."""
    age_s: float
    """How long ago its first step began."""


class News(msgspec.Struct, frozen=True, tag=True):
    """What a step gave to the sequences of one API process, in columns."""

    sequence_ids: list[int]
    token_ids: list[int]
    """`token_ids[i]` is the next token of `sequence_ids[i]`."""
    begun: list[Begun] = []
    finished: list[Finished] = []
    logprobs: dict[int, list[TokenLogprobs]] = {}
    """Of the new tokens, by sequence id."""
    prompt_logprobs: dict[int, list[TokenLogprobs]] = {}
    """Complete, by sequence id."""


class Found(msgspec.Struct, frozen=True, tag=True):
    """The answer to a Lookup."""

    lookup_id: int
    num_cached: int | None


class AllCounts(msgspec.Struct, frozen=True, tag=True):
    """What each API process has counted, and what those counted that are gone."""

    question: int
    texts: list[str]


def identity_of(serial: int) -> bytes:
    """What ZeroMQ calls the socket of the API process of this number."""
    return str(serial).encode()


FromApi = Hello | Failed | Tokens | Request | Abort | Lookup | Counts | PromptRead
ToApi = EngineStatus | Serving | Admitted | Refused | News | Found | AllCounts | PromptRead
