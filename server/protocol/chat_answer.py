"""The answer of `POST /v1/chat/completions`, and its chunks."""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from server.protocol.common import Envelope, PromptLogprobs, UsageField, Warnings

ServiceTierField = Literal["default", "flex", "priority"] | UnsetType
"""The tier that was used, if the request named one."""


class TopLogprob(msgspec.Struct, frozen=True):
    """A token that could have been drawn. `bytes` are its UTF-8 bytes, part of a character perhaps."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(msgspec.Struct, frozen=True):
    """A token that was drawn."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class ChatLogprobs(msgspec.Struct):
    """One entry a token."""

    content: list[TokenLogprob]
    refusal: None = None


class CalledFunction(msgspec.Struct, frozen=True):
    """A call, with its arguments as JSON."""

    name: str
    arguments: str


class CalledCustom(msgspec.Struct, frozen=True):
    """A call of a custom tool, with its input as it is."""

    name: str
    input: str


class MadeToolCall(msgspec.Struct, frozen=True, kw_only=True):
    """A tool call of the answer, with the member that its type names."""

    id: str
    type: Literal["function", "custom"]
    function: CalledFunction | UnsetType = UNSET
    custom: CalledCustom | UnsetType = UNSET


class AssistantMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The answer's message."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    """null where there are calls or thoughts and nothing else."""
    refusal: None = None
    tool_calls: list[MadeToolCall] | UnsetType = UNSET
    function_call: CalledFunction | UnsetType = UNSET
    """The call, for a request with `functions`."""
    reasoning_content: str | UnsetType = UNSET
    """What the model thought, if its chat template has tags for that."""
    reasoning: str | UnsetType = UNSET
    """`reasoning_content` by its other name."""


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One answer."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: str
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletion(Envelope, frozen=True, kw_only=True):
    """The whole answer."""

    choices: list[ChatChoice]
    usage: UsageField = UNSET
    service_tier: ServiceTierField = UNSET
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    warnings: Warnings = UNSET


class FunctionDelta(msgspec.Struct, frozen=True, kw_only=True):
    """A call's name, in its first chunk, and the next piece of its arguments."""

    name: str | UnsetType = UNSET
    arguments: str


class CustomDelta(msgspec.Struct, frozen=True, kw_only=True):
    """A call's name, in its first chunk, and the next piece of its input."""

    name: str | UnsetType = UNSET
    input: str


class ToolCallDelta(msgspec.Struct, frozen=True, kw_only=True):
    """What a chunk adds to a tool call. `id` and `type` come once, with the name."""

    index: int
    id: str | UnsetType = UNSET
    type: Literal["function", "custom"] | UnsetType = UNSET
    function: FunctionDelta | UnsetType = UNSET
    custom: CustomDelta | UnsetType = UNSET


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What a chunk adds to the message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    tool_calls: list[ToolCallDelta] | UnsetType = UNSET
    function_call: FunctionDelta | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A part of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    token_ids: list[int] | UnsetType = UNSET


class ChatCompletionChunk(Envelope, frozen=True, kw_only=True):
    """One event of a streamed answer."""

    choices: list[ChunkChoice]
    usage: UsageField = UNSET
    service_tier: ServiceTierField = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    """With the first chunk."""
    warnings: Warnings = UNSET
