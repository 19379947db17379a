"""The request fields and the answer parts that completions and chat share."""

import secrets
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import BeforeValidator, Field

from model.batch import SamplingParams
from server.errors import ContextLengthExceeded, InvalidRequest
from server.protocol.structured import StructuredFields
from server.protocol.wire import WireModel

TokenId = Annotated[int, Field(ge=0, le=2**31 - 1)]
TokenCount = Annotated[int, Field(ge=0, le=2**31 - 1)]
MaxTokens = Annotated[int, Field(ge=1, le=2**31 - 1)]
Name = Annotated[str, Field(max_length=256)]
ToolName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
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

    include_usage: bool = False
    """Whether a last chunk without choices tells the token counts."""
    continuous_usage_stats: bool = False
    """With `include_usage`: every other chunk tells the counts so far."""
    include_obfuscation: bool = False
    """Pad the chunks with random characters, so that their size on the wire doesn't tell the length of a token."""


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
    allowed_token_ids: list[TokenId] = Field([], max_length=1024)
    """Nothing else is drawn, not even an end-of-sequence token that isn't listed; empty is off."""
    bad_words: list[StopString] = Field([], max_length=64)
    """Texts whose tokens, with a space before them and without, are never completed; other spellings are not looked
    for."""
    ignore_eos: bool = False
    """Go on after the model's end-of-sequence tokens."""
    temperature: float = Field(1.0, ge=0, le=2)
    """0 takes the most likely token each time; higher is more varied."""
    top_p: float = Field(1.0, ge=0, le=1)
    """Draw from the most likely tokens whose probabilities add up to this; 0 is greedy."""
    min_p: float = Field(0.0, ge=0, le=1)
    """Draw from tokens at least this fraction as likely as the most likely one; 0 is off."""
    typical_p: float = Field(1.0, ge=0, le=1)
    """Draw from the tokens whose surprise is nearest to the mean, of probabilities that add up to this; 1 is off."""
    top_k: int = Field(0, ge=-1, le=2**31 - 1)
    """Draw from this many of the most likely tokens; 0 and -1 are off."""
    stream: bool = False
    """Send the answer as server-sent events while it is generated."""
    stream_options: StreamOptions | None = None
    """Further wishes about a stream."""
    prompt_logprobs: int | None = Field(None, ge=0, le=100)
    """List the log-probability of each token of the prompt, and this many alternatives, at most the server's
    `--max-logprobs`; not in a stream. `rank` is null for a token that is not among them."""
    return_token_ids: bool = False
    """Give the ids of the prompt's and the answer's tokens too."""
    return_tokens_as_token_ids: bool = False
    """Write tokens in log-probabilities as `token_id:5`, which tells apart those that look alike."""
    truncate_prompt_tokens: int | None = Field(None, ge=-1, le=2**31 - 1)
    """Keep only so many tokens of the prompt, the last ones; -1: as many as fit before `max_tokens`."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the text."""
    include_stop_str_in_output: bool = False
    """End the text with the stop string instead of before it."""
    priority: int = Field(0, ge=-1000, le=1000)
    """Requests with a lower number go first."""
    deadline_ms: int | None = Field(None, ge=1, le=2**31 - 1)
    """So many milliseconds after it entered the queue the request ends with what it has, as if at `max_tokens`."""
    request_id: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$")] | None = None
    """The request's name in the header x-request-id and in the log; goes before that header of the request."""
    cache_salt: Name | None = None
    """Prompts share cached blocks only with requests of the same salt."""
    user: str | None = Field(None, max_length=512)
    """Who asks, for your log search: only a hash of it is logged."""
    safety_identifier: str | None = Field(None, max_length=64)
    """OpenAI's newer name of `user`: logged as a hash too."""
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
        return self.prompt_logprobs

    @property
    def form_field(self) -> str:
        """The field that gives the text a form."""
        form = self.form()
        return "tools" if form is None else form.param

    @property
    def narrowing_field(self) -> str:
        """The field that forbids some tokens of a text without a form."""
        return "bad_words"

    @property
    def queue_priority(self) -> int:
        """As the engine's priority: lower goes first."""
        return self.priority

    def check(self, limits: Limits) -> None:
        """Raise InvalidRequest where fields contradict each other or exceed what the model has."""
        if self.stream_options is not None and not self.stream:
            raise InvalidRequest("stream_options needs stream: true", param="stream_options")
        if (options := self.stream_options) is not None and options.continuous_usage_stats > options.include_usage:
            raise InvalidRequest("it needs include_usage: true", param="stream_options.continuous_usage_stats")
        if self.n > limits.max_choices:
            raise InvalidRequest(f"n is at most {limits.max_choices} on this server", param="n")
        for name, count in ((self.logprobs_field, self.num_logprobs), ("prompt_logprobs", self.prompt_logprobs)):
            if (count or 0) > limits.max_logprobs:
                raise InvalidRequest(
                    f"{name} is at most {limits.max_logprobs} on this server (--max-logprobs)", param=name
                )
        if self.prompt_logprobs is not None and self.stream:
            raise InvalidRequest("prompt_logprobs has no place in a stream", param="prompt_logprobs")
        if self.truncate_prompt_tokens == 0:
            raise InvalidRequest("a prompt keeps at least 1 token; -1 keeps what fits", param="truncate_prompt_tokens")
        wanted = self.wanted_tokens if self.wanted_tokens is not None else self.default_max_tokens
        if wanted is not None and self.min_tokens > wanted:
            raise InvalidRequest(f"min_tokens is above max_tokens, which is {wanted}", param="min_tokens")
        check_token_ids(self.stop_token_ids, limits.vocab_size, "stop_token_ids")
        check_token_ids(self.allowed_token_ids, limits.vocab_size, "allowed_token_ids")
        self._bias(limits)

    def truncated(self, prompt_ids: list[int], limits: Limits) -> list[int]:
        """What `truncate_prompt_tokens` leaves of a prompt."""
        if self.truncate_prompt_tokens is None:
            return prompt_ids
        wanted = 1 if self.wanted_tokens is None else self.wanted_tokens
        most = limits.max_model_len - wanted if self.truncate_prompt_tokens == -1 else self.truncate_prompt_tokens
        return prompt_ids[-max(most, 1) :]

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
            typical_p=self.typical_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            logit_bias=self._bias(limits),
            allowed_token_ids=tuple(self.allowed_token_ids),
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
                f"shorten the prompt{' or lower max_tokens' if room > 0 else ''}",
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
    accepted_prediction_tokens: int
    """Tokens of the request's prediction that were guessed and right."""
    rejected_prediction_tokens: int


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
    obfuscation: str | UnsetType = UNSET
    """Padding, to be thrown away."""


class PromptLogprob(msgspec.Struct, frozen=True):
    """A token that could have been at a place of the prompt."""

    logprob: float
    rank: int | None
    """1 for the most likely token; null beyond those that were asked for."""
    decoded_token: str


PromptLogprobs = list[dict[int, PromptLogprob] | None]
"""For each token of the prompt, it and the alternatives by id; null for the first, which nothing comes before."""

UsageField = Usage | None | UnsetType
"""UNSET: the key is absent. None: it is null, as in all chunks but the last when usage was asked for."""

Warnings = list[str] | UnsetType
