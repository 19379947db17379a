"""`POST /v1/chat/completions`: the request, the answer and its chunks."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from msgspec import UNSET
from pydantic import BeforeValidator, Field, JsonValue, model_validator
from pydantic_core import PydanticCustomError

from server.errors import InvalidRequest
from server.protocol.chat_answer import ServiceTierField
from server.protocol.common import GenerationRequest, Limits, MaxTokens, Name, TokenCount
from server.protocol.metadata import Metadata
from server.protocol.refused import CHAT
from server.protocol.tools import (
    MAX_TOOLS,
    Function,
    FunctionCallField,
    FunctionDefinition,
    Offer,
    Tool,
    ToolCall,
    ToolChoiceField,
    ToolUse,
    choose_tools,
)
from server.protocol.wire import Refusal, WireModel


def _only_text(kind: Any) -> Any:
    if isinstance(kind, str) and kind not in ("text", "refusal"):
        raise PydanticCustomError("part", "the model reads text only, in parts of the type 'text' or 'refusal'")
    return kind


class ContentPart(WireModel):
    """A part of a message's content. The model reads text; a refusal is text too."""

    discriminator = "type"
    members_of: ClassVar[Mapping[str, tuple[str, ...]]] = {"text": ("text",), "refusal": ("refusal",)}

    type: Annotated[Literal["text", "refusal"], BeforeValidator(_only_text)]
    """What kind of part it is."""
    text: str = ""
    """The text of a text part."""
    refusal: str = ""
    """The text of a refusal."""

    @property
    def said(self) -> str:
        """What the part says."""
        return self.text if self.type == "text" else self.refusal

    @model_validator(mode="after")
    def _has_its_member(self) -> "ContentPart":
        if self.type not in self.model_fields_set:
            raise PydanticCustomError(
                "part", "a part of the type '{type}' needs the member '{type}'", {"type": self.type}
            )
        return self


Content = Annotated[list[ContentPart], Field(max_length=1024, fail_fast=True)]


def _as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


class Message(WireModel):
    """One turn. A developer speaks as system, and a function's answer is a tool's: templates know no other."""

    discriminator = "role"
    members_of: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "tool_call_id": ("tool",),
        "tool_calls": ("assistant",),
        "function_call": ("assistant",),
        "refusal": ("assistant",),
        "reasoning_content": ("assistant",),
        "reasoning": ("assistant",),
        "parsed": ("assistant",),
    }

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
    """Why the assistant declined, which ends its text."""
    reasoning_content: str | None = None
    """What the assistant thought, for templates that show it."""
    reasoning: str | None = None
    """`reasoning_content` by its other name."""
    parsed: JsonValue = None
    """Accepted: the content as OpenAI's clients have parsed it, which they send back beside it."""

    @property
    def text(self) -> str:
        """All text of the content, one part a line."""
        return "\n".join([*(part.said for part in self.content), *([self.refusal] if self.refusal else [])])

    def check(self, path: str) -> None:
        """Raise InvalidRequest where something is missing that the role needs. `path`: where the message stands."""
        if self.role == "tool" and self.tool_call_id is None:
            raise _missing(f"{path}.tool_call_id", "a tool's message says which call it answers")
        if self.role == "function" and self.name is None:
            raise _missing(f"{path}.name", "a function's message says which function it is")
        if not self.content and not self._may_lack_content:
            instead = " or tool_calls" if self.role == "assistant" else ""
            raise _missing(f"{path}.content", f"a message of the role {self.role} needs content{instead}")
        if None not in (self.reasoning, self.reasoning_content) and self.reasoning != self.reasoning_content:
            raise InvalidRequest("reasoning is another name of reasoning_content; give one", param=f"{path}.reasoning")
        for position, call in enumerate(self.tool_calls):
            call.check(f"{path}.tool_calls.{position}")

    @property
    def _may_lack_content(self) -> bool:
        """A function's content may be null at OpenAI; an answer that ended among its thoughts has none."""
        if self.role == "assistant":
            return bool(
                self.tool_calls or self.function_call or self.refusal or self.reasoning_content or self.reasoning
            )
        return self.role == "function"

    def for_template(self) -> dict[str, Any]:
        """The message as chat templates expect it."""
        message: dict[str, Any] = {"role": _TEMPLATE_ROLES.get(self.role, self.role), "content": self.text}
        calls = [call.for_template() for call in self.tool_calls]
        if self.function_call is not None:
            calls.append({"type": "function", "function": self.function_call.for_template()})
        optional = {
            "name": self.name,
            "tool_call_id": self.tool_call_id,
            "tool_calls": calls or None,
            "reasoning_content": self.reasoning_content or self.reasoning,
        }
        # Those of other roles are left out: `unknown_fields` says so.
        return message | {
            key: value
            for key, value in optional.items()
            if value is not None and self.role in self.members_of.get(key, (self.role,))
        }


def _missing(path: str, why: str) -> InvalidRequest:
    # Clients show the message, and many of them nothing else.
    return InvalidRequest(f"{path}: {why}", param=path)


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
    tools: list[Tool] = Field([], max_length=MAX_TOOLS, fail_fast=True)
    """What the model may call."""
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    """How much to think: told to chat templates that know it or can switch thinking off (`none`), and a share of the
    answer's tokens after which thoughts in tags are ended. `thinking_token_budget` goes before that share."""
    verbosity: Literal["low", "medium", "high"] | None = None
    """How long the answer is to be, for chat templates that know it; `medium` is taken by all."""
    add_special_tokens: bool | None = None
    """Put the beginning-of-sequence token first; by default not, since templates write it themselves."""

    @property
    def opens_answer(self) -> bool:
        """Whether the rendered text ends with the start of an assistant's turn."""
        return not self.continue_final_message if self.add_generation_prompt is None else self.add_generation_prompt

    @property
    def tool_use(self) -> ToolUse:
        """The tools that the model is told of. Raises InvalidRequest for those that contradict each other."""
        return choose_tools(self._offers, None, param="tools", choice_param="tool_choice", is_single=False)

    @property
    def _offers(self) -> list[Offer]:
        return [tool.offer(f"tools.{index}") for index, tool in enumerate(self.tools)]

    def check_prompt(self) -> None:
        """Raise InvalidRequest where the fields contradict each other."""
        if self.continue_final_message and self.add_generation_prompt:
            raise InvalidRequest("not together with add_generation_prompt", param="continue_final_message")
        for index, message in enumerate(self.messages):
            message.check(f"messages.{index}")


# The part of an answer's tokens that may be thoughts.
_THINKING_SHARES = {"none": 0.0, "minimal": 0.1, "low": 0.2, "medium": 0.5, "high": 0.8, "xhigh": 0.9, "max": 0.95}

# Further apart than any two values of `priority`.
_TIER_PRIORITIES = {"priority": -10_000, "flex": 10_000}


class Prediction(WireModel):
    """What the client thinks that the answer will be: it comes faster where that is right, and is the same."""

    type: Literal["content"]
    """What kind of prediction it is."""
    content: Annotated[Content, BeforeValidator(_as_parts, json_schema_input_type=str | Content)]
    """The text, or its parts."""

    @property
    def text(self) -> str:
        """All parts together."""
        return "".join(part.said for part in self.content)


class ChatCompletionRequest(GenerationRequest, Conversation):
    """The body of `POST /v1/chat/completions`."""

    refused: ClassVar[Mapping[str, Refusal]] = CHAT
    prompt_field: ClassVar[str] = "messages"
    logprobs_field: ClassVar[str] = "top_logprobs"

    max_completion_tokens: MaxTokens | None = None
    """Most tokens to generate for each choice; by default, whatever the context leaves."""
    max_tokens: MaxTokens | None = None
    """The older name of `max_completion_tokens`."""
    logprobs: bool = False
    """List the log-probability of each token."""
    top_logprobs: int | None = Field(None, ge=0, le=100)
    """How many alternatives to list with each, at most the server's `--max-logprobs`; needs `logprobs`."""
    tool_choice: ToolChoiceField | None = None
    """Whether a tool is called and which; by default as the model likes."""
    parallel_tool_calls: bool = True
    """Whether an answer may call several tools, or ends with its first call."""
    functions: list[FunctionDefinition] = Field([], max_length=MAX_TOOLS, fail_fast=True)
    """The older form of `tools`, which is answered in the older form."""
    function_call: FunctionCallField | None = None
    """The older form of `tool_choice`."""
    thinking_token_budget: TokenCount | None = None
    """After so many tokens of thoughts their closing tag is forced, for models with tags around their thoughts."""
    prediction: Prediction | None = None
    """What the answer will probably be, for example a file of which it changes a few lines."""
    service_tier: Literal["auto", "default", "flex", "priority"] | None = None
    """`priority` is served before `default` and `flex` after it, whatever the field `priority` says."""
    store: bool = False
    """Keep the answer on the server, for /v1/chat/completions/{id}; needs the server's --store-path."""
    metadata: Metadata = Field({})
    """Attached to what is stored, to find it by."""
    prompt_cache_key: Name | None = None
    """Accepted; prompts are cached without it, and there is one worker to route to."""

    @property
    def wanted_tokens(self) -> int | None:
        """`max_tokens` is the older name."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def max_thinking(self, max_tokens: int) -> int | None:
        """Most tokens of thoughts in an answer of `max_tokens`; None if nothing was asked for."""
        if self.thinking_token_budget is not None or self.reasoning_effort is None:
            return self.thinking_token_budget
        return int(max_tokens * _THINKING_SHARES[self.reasoning_effort])

    @property
    def narrowing_field(self) -> str:
        """Bad words, or an end of thoughts."""
        if self.bad_words:
            return "bad_words"
        return "reasoning_effort" if self.thinking_token_budget is None else "thinking_token_budget"

    @property
    def used_tier(self) -> ServiceTierField:
        """The service tier that the answer names."""
        match self.service_tier:
            case None:
                return UNSET
            case "auto" | "default":
                return "default"
            case tier:
                return tier

    @property
    def queue_priority(self) -> int:
        """The tier counts more than any `priority`."""
        return self.priority + _TIER_PRIORITIES.get(self.service_tier or "default", 0)

    @property
    def num_logprobs(self) -> int | None:
        """As `SamplingParams.logprobs`."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @property
    def tool_use(self) -> ToolUse:
        """The tools that the choice leaves, none of them if nothing is to be called."""
        if self.functions:
            paths = [f"functions.{index}" for index in range(len(self.functions))]
            offers = [Offer(one, path, f"{path}.parameters") for one, path in zip(self.functions, paths, strict=True)]
            return choose_tools(
                offers, self.function_call, param="functions", choice_param="function_call", is_single=True
            )
        return choose_tools(
            self._offers,
            self.tool_choice,
            param="tools",
            choice_param="tool_choice",
            is_single=not self.parallel_tool_calls,
        )

    def check(self, limits: Limits) -> None:
        """Raise InvalidRequest where fields contradict each other or exceed what the model has."""
        super().check(limits)
        self.check_prompt()
        if self.functions and self.tools:
            raise InvalidRequest("functions is an older name of tools; give one", param="functions")
        if self.max_tokens not in (None, self.wanted_tokens):
            raise InvalidRequest(
                "max_tokens is an older name of max_completion_tokens; give one", param="max_completion_tokens"
            )
        if self.top_logprobs is not None and not self.logprobs:
            raise InvalidRequest("top_logprobs needs logprobs: true", param="top_logprobs")
