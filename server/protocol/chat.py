"""`POST /v1/chat/completions`: the request, the answer and its chunks."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import BeforeValidator, Field, JsonValue

from server.errors import InvalidRequest
from server.protocol.common import Envelope, GenerationRequest, Limits, Name, TokenCount, UsageField, Warnings
from server.protocol.refused import CHAT
from server.protocol.structured import Form, ResponseFormat
from server.protocol.wire import Refusal, WireModel


class ContentPart(WireModel):
    """A part of a message's content. The model reads text; a refusal is text too."""

    type: Literal["text", "refusal"]
    """What kind of part it is."""
    text: str = ""
    """The text of a text part."""
    refusal: str = ""
    """The text of a refusal."""


Content = Annotated[list[ContentPart], Field(max_length=1024, fail_fast=True)]


def _as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class Function(WireModel):
    """What an assistant called."""

    name: Name
    """Its name."""
    arguments: str = "{}"
    """JSON."""

    def for_template(self) -> dict[str, Any]:
        """Templates of models with tools want the arguments as an object; text that is none stays text."""
        try:
            arguments = json.loads(self.arguments)
        except (ValueError, RecursionError):
            arguments = None
        return {"name": self.name, "arguments": arguments if isinstance(arguments, dict) else self.arguments}


class ToolCall(WireModel):
    """A call within an assistant's message."""

    id: Name = ""
    """What the tool's answer refers to."""
    type: Literal["function"] = "function"
    """Functions are the only kind."""
    function: Function
    """The call."""

    def for_template(self) -> dict[str, Any]:
        """The call as chat templates expect it."""
        return {"id": self.id, "type": "function", "function": self.function.for_template()}


class Message(WireModel):
    """One turn. A developer speaks as system, and a function's answer is a tool's: templates know no other."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    """Who speaks; developer means system, function means tool."""
    content: Annotated[Content, BeforeValidator(_as_parts, json_schema_input_type=str | Content)] = Field([])
    """The text, or its parts."""
    name: Name | None = None
    """The speaker's name, for templates that show it."""
    tool_call_id: Name | None = None
    """The call that a tool's message answers."""
    tool_calls: list[ToolCall] = Field([], max_length=128, fail_fast=True)
    """What the assistant called."""
    function_call: Function | None = None
    """The older form of one tool call."""
    refusal: str = ""
    """Why the assistant declined; its text where there is no content."""
    reasoning_content: str | None = None
    """What the assistant thought, for templates that show it."""
    reasoning: str | None = None
    """The same, by its other name."""

    @property
    def text(self) -> str:
        """All text of the content, one part a line."""
        return "\n".join(part.text or part.refusal for part in self.content) or self.refusal

    def for_template(self) -> dict[str, Any]:
        """The message as chat templates expect it."""
        message: dict[str, Any] = {"role": _TEMPLATE_ROLES.get(self.role, self.role), "content": self.text}
        calls = [
            {"id": call.id, "type": "function", "function": call.function.for_template()} for call in self.tool_calls
        ]
        if self.function_call is not None:
            calls.append({"type": "function", "function": self.function_call.for_template()})
        optional = {
            "name": self.name,
            "tool_call_id": self.tool_call_id,
            "tool_calls": calls or None,
            "reasoning_content": self.reasoning_content or self.reasoning,
        }
        return message | {key: value for key, value in optional.items() if value is not None}


_TEMPLATE_ROLES = {"developer": "system", "function": "tool"}


class Conversation(WireModel):
    """Messages and how to render them; what /tokenize and chat share."""

    messages: list[Message] = Field(min_length=1, max_length=4096, fail_fast=True)
    """The turns so far, oldest first."""
    add_generation_prompt: bool | None = None
    """Whether to open the assistant's turn; by default, unless the final message is continued."""
    continue_final_message: bool = False
    """Continue the text of the final message instead of opening a new turn."""
    chat_template_kwargs: dict[str, JsonValue] = Field({}, max_length=32)
    """Variables for the model's chat template."""
    add_special_tokens: bool | None = None
    """Put the beginning-of-sequence token first; by default not, since templates write it themselves."""

    @property
    def opens_answer(self) -> bool:
        """Whether the rendered text ends with the start of an assistant's turn."""
        return not self.continue_final_message if self.add_generation_prompt is None else self.add_generation_prompt

    def check_prompt(self) -> None:
        """Raise InvalidRequest where the fields contradict each other."""
        if self.continue_final_message and self.add_generation_prompt:
            raise InvalidRequest("not together with add_generation_prompt", param="continue_final_message")


class ChatCompletionRequest(GenerationRequest, Conversation):
    """The body of `POST /v1/chat/completions`."""

    refused: ClassVar[Mapping[str, Refusal]] = CHAT
    prompt_field: ClassVar[str] = "messages"
    logprobs_field: ClassVar[str] = "top_logprobs"

    max_completion_tokens: TokenCount | None = None
    """Most tokens to generate for each choice; by default, whatever the context leaves."""
    logprobs: bool = False
    """List the log-probability of each token."""
    top_logprobs: int | None = Field(None, ge=0, le=100)
    """How many alternatives to list with each; needs `logprobs`."""
    response_format: ResponseFormat | None = None
    """What form the text must have."""
    prompt_cache_key: Name | None = None
    """Accepted; prompts are cached without it, and there is one worker to route to."""

    @property
    def wanted_tokens(self) -> int | None:
        """`max_tokens` is the older name."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def num_logprobs(self) -> int | None:
        """As `SamplingParams.logprobs`."""
        return (self.top_logprobs or 0) if self.logprobs else None

    def _forms(self) -> list[Form]:
        form = None if self.response_format is None else self.response_format.form()
        return super()._forms() if form is None else [form, *super()._forms()]

    def check(self, limits: Limits) -> None:
        """Raise InvalidRequest where fields contradict each other or exceed what the model has."""
        super().check(limits)
        self.check_prompt()
        name = "max_tokens" if self.max_completion_tokens is None else "max_completion_tokens"
        if self.wanted_tokens == 0:
            raise InvalidRequest(f"{name} is at least 1", param=name)
        if self.max_tokens not in (None, self.wanted_tokens):
            raise InvalidRequest("max_tokens is an older name of max_completion_tokens; give one", param=name)
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs")


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


class AssistantMessage(msgspec.Struct, frozen=True, kw_only=True):
    """The answer's message."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(msgspec.Struct, frozen=True, kw_only=True):
    """One answer."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: str


class ChatCompletion(Envelope, frozen=True, kw_only=True):
    """The whole answer."""

    choices: list[ChatChoice]
    usage: UsageField = UNSET
    warnings: Warnings = UNSET


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """What a chunk adds to the message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True, kw_only=True):
    """A part of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None


class ChatCompletionChunk(Envelope, frozen=True, kw_only=True):
    """One event of a streamed answer."""

    choices: list[ChunkChoice]
    usage: UsageField = UNSET
    warnings: Warnings = UNSET
