"""The request fields and the answer parts that completions and chat share."""

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UnsetType
from pydantic import BeforeValidator, Field

from model.batch import SamplingParams
from server.errors import ContextLengthExceeded, InvalidRequest
from server.protocol.refused import STREAM_OPTIONS
from server.protocol.structured import StructuredFields
from server.protocol.wire import Refusal, WireModel

TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
TokenCount = Annotated[int, Field(ge=0, le=2**31 - 1)]
Name = Annotated[str, Field(max_length=256)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]
StopStrings = Annotated[list[StopString], Field(max_length=16)]


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


@dataclass(frozen=True, slots=True)
class Limits:
    """What the served model and the settings allow, beyond the ranges that the wire types state."""

    vocab_size: int
    max_model_len: int
    max_choices: int
    max_logprobs: int
    eos_token_ids: tuple[int, ...] = ()
    """Tokens that end a text beyond those that the worker knows."""


class StreamOptions(WireModel):
    """`stream_options`."""

    refused: ClassVar[Mapping[str, Refusal]] = STREAM_OPTIONS

    include_usage: bool = False
    """Whether a last chunk without choices tells the token counts."""


class GenerationRequest(StructuredFields):
    """The fields that say how to generate. Defaults are OpenAI's; a model's generation_config.json changes none."""

    model: Name | None = None
    """A served name; may be left out where one model is served."""
    frequency_penalty: Penalty = 0.0
    """Subtracted from a token's logit for each time that it was generated."""
    presence_penalty: Penalty = 0.0
    """Subtracted once from the logit of each token that was generated."""
    # Bounded away from 0 and infinity, where dividing a logit by it overflows.
    repetition_penalty: float = Field(1.0, ge=0.01, le=100)
    """Above 1, tokens of the prompt and the answer become less likely; 1 is off."""
    logit_bias: dict[str, Annotated[float, Field(ge=-100, le=100)]] = Field({}, max_length=300)
    """By token id: added to the token's logit."""
    max_tokens: TokenCount | None = None
    """Most tokens to generate for each choice."""
    min_tokens: TokenCount = 0
    """Fewest tokens to generate: nothing ends a choice before."""
    n: int = Field(1, ge=1, le=128)
    """How many choices to answer with."""
    seed: int | None = Field(None, ge=-(2**63), le=2**63 - 1)
    """The same seed gives the same text; without one, each request draws its own."""
    stop: Annotated[StopStrings, BeforeValidator(_as_list, json_schema_input_type=StopString | StopStrings)] = Field([])
    """Texts that end a choice where the first of them is complete."""
    # The sampler holds 128, and the tokenizer's end-of-sequence token may join them.
    stop_token_ids: list[TokenId] = Field([], max_length=64)
    """Token ids that end a choice, beside the model's end-of-sequence tokens."""
    ignore_eos: bool = False
    """Go on after the model's end-of-sequence tokens."""
    temperature: float = Field(1.0, ge=0, le=2)
    """0 takes the most likely token each time; higher is more varied."""
    top_p: float = Field(1.0, ge=0, le=1)
    """Draw from the most likely tokens whose probabilities add up to this; 0 is greedy."""
    min_p: float = Field(0.0, ge=0, le=1)
    """Draw from tokens at least this fraction as likely as the most likely one; 0 is off."""
    top_k: int = Field(0, ge=-1, le=2**31 - 1)
    """Draw from this many of the most likely tokens; 0 and -1 are off."""
    stream: bool = False
    """Send the answer as server-sent events while it is generated."""
    stream_options: StreamOptions | None = None
    """Further wishes about a stream."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the text."""
    include_stop_str_in_output: bool = False
    """End the text with the stop string instead of before it."""
    priority: int = Field(0, ge=-1000, le=1000)
    """Requests with a lower number go first."""
    cache_salt: Name | None = None
    """Prompts share cached blocks only with requests of the same salt."""
    user: str | None = Field(None, max_length=512)
    """Who asks, for your log search: only a hash of it is logged."""
    safety_identifier: str | None = Field(None, max_length=64)
    """The same, by OpenAI's newer name."""
    include_warnings: bool = False
    """Name fields without effect in the body as well, not only in the header x-nexttoken-warnings."""

    default_max_tokens: ClassVar[int | None] = None
    """None: whatever the context leaves."""
    prompt_field: ClassVar[str] = "prompt"
    logprobs_field: ClassVar[str] = "logprobs"

    @property
    def wanted_tokens(self) -> int | None:
        """Most tokens that the client asked for, None if it didn't say."""
        return self.max_tokens

    @property
    def num_choices(self) -> int:
        """Choices to generate for each prompt."""
        return self.n

    @property
    def num_logprobs(self) -> int | None:
        """As `SamplingParams.logprobs`."""
        return None

    @property
    def num_prompt_logprobs(self) -> int | None:
        """As `SamplingParams.prompt_logprobs`."""
        return None

    def check(self, limits: Limits) -> None:
        """Raise InvalidRequest where fields contradict each other or exceed what the model has."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options needs stream: true", param="stream_options")
        if self.n > limits.max_choices:
            raise InvalidRequest(f"n is at most {limits.max_choices} on this server", param="n")
        if (self.num_logprobs or 0) > limits.max_logprobs:
            raise InvalidRequest(f"at most {limits.max_logprobs} on this server", param=self.logprobs_field)
        wanted = self.wanted_tokens if self.wanted_tokens is not None else self.default_max_tokens
        if wanted is not None and self.min_tokens > wanted:
            raise InvalidRequest(f"min_tokens is above max_tokens, which is {wanted}", param="min_tokens")
        check_token_ids(self.stop_token_ids, limits.vocab_size, "stop_token_ids")
        self._bias(limits)

    def sampling_params(self, num_prompt: int, limits: Limits) -> SamplingParams:
        """How to sample after a prompt of `num_prompt` tokens. Raises InvalidRequest, ContextLengthExceeded."""
        form = self.form()
        return SamplingParams(
            max_tokens=self._max_tokens_after(num_prompt, limits.max_model_len),
            min_tokens=self.min_tokens,
            temperature=self.temperature if self.top_p > 0 else 0.0,  # OpenAI: top_p 0 is greedy
            top_k=max(self.top_k, 0),  # -1 is off for vLLM's clients
            top_p=self.top_p if self.top_p > 0 else 1.0,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=self._bias(limits),
            seed=secrets.randbits(63) if self.seed is None else self.seed % 2**63,
            ignore_eos=self.ignore_eos,
            stop_token_ids=(*self.stop_token_ids, *(() if self.ignore_eos else limits.eos_token_ids)),
            logprobs=self.num_logprobs,
            prompt_logprobs=self.num_prompt_logprobs,
            grammar=None if form is None else form.grammar,
        )

    def _max_tokens_after(self, num_prompt: int, max_model_len: int) -> int:
        room = max_model_len - num_prompt
        wanted = 1 if self.wanted_tokens is None else self.wanted_tokens
        if wanted > room:
            raise ContextLengthExceeded(
                f"prompt has {num_prompt} tokens and {wanted} more are wanted, the model's context is {max_model_len}; "
                "shorten the prompt or lower max_tokens",
                param=self.prompt_field,
            )
        if self.min_tokens > room:
            raise InvalidRequest(f"min_tokens is above {room}, which the prompt leaves", param="min_tokens")
        return min(room, self.default_max_tokens or room) if self.wanted_tokens is None else wanted

    def _bias(self, limits: Limits) -> tuple[tuple[int, float], ...]:
        return tuple((_biased_token(key, limits.vocab_size), bias) for key, bias in self.logit_bias.items())


def _biased_token(key: str, vocab_size: int) -> int:
    # isdecimal alone takes digits of every script, and "05" would be a second spelling of "5".
    is_number = key.isascii() and key.isdecimal() and len(key) <= 10 and key == str(int(key))
    if not is_number or int(key) >= vocab_size:
        raise InvalidRequest(f"keys of logit_bias are token ids from 0 to {vocab_size - 1}", param="logit_bias")
    return int(key)


def check_token_ids(token_ids: list[int], vocab_size: int, param: str) -> None:
    """Raise InvalidRequest unless the model has an embedding for each of them."""
    if token_ids and not 0 <= min(token_ids) <= max(token_ids) < vocab_size:
        raise InvalidRequest(f"token ids are from 0 to {vocab_size - 1}", param=param)


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """Part of `usage`."""

    cached_tokens: int


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    """Part of `usage`."""

    reasoning_tokens: int


class Usage(msgspec.Struct, frozen=True):
    """`usage`: counted in ids, the end-of-sequence token included."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """What every answer and every chunk starts with."""

    id: str
    object: str
    created: int
    model: str
    system_fingerprint: str


UsageField = Usage | None | UnsetType
"""UNSET: the key is absent. None: it is null, as in all chunks but the last when usage was asked for."""

Warnings = list[str] | UnsetType
