"""`POST /v1/completions`: the request, the answer and its chunks."""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from server.errors import InvalidRequest
from server.protocol.common import (
    Envelope,
    GenerationRequest,
    Limits,
    PromptLogprobs,
    TokenCount,
    UsageField,
    Warnings,
    check_token_ids,
)
from server.protocol.refused import COMPLETIONS
from server.protocol.wire import Refusal

Prompt = str | list[int]
Prompts = Annotated[list[Prompt], Field(max_length=256)]


def _as_prompts(value: Any) -> list[Prompt]:
    if isinstance(value, str) or _is_token_ids(value):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(one, str) or _is_token_ids(one) for one in value):
        raise PydanticCustomError("prompt", "a prompt is a string, token ids, or a list of these")
    if not value or not all(value):
        raise PydanticCustomError("prompt", "a prompt is not empty; leave it out to start from nothing")
    return value


def _is_token_ids(value: Any) -> bool:
    # An empty list is one of token ids too; a bool is an int to isinstance.
    return isinstance(value, list) and bool(value) and all(type(token_id) is int for token_id in value)


class CompletionRequest(GenerationRequest):
    """The body of `POST /v1/completions`."""

    refused: ClassVar[Mapping[str, Refusal]] = COMPLETIONS
    default_max_tokens: ClassVar[int] = 16

    prompt: (
        Annotated[Prompts, BeforeValidator(_as_prompts, json_schema_input_type=str | list[int] | Prompts)] | None
    ) = None
    """A text, its token ids, or a list of these, each answered by itself; without one, from the model's first token."""
    max_tokens: TokenCount = default_max_tokens
    """Most tokens to generate for each choice; 0 only with `echo` or `prompt_logprobs`."""
    suffix: str | None = None
    """What comes after the text: the model fills the gap between prompt and suffix, if it has tokens for that."""
    best_of: int | None = Field(None, ge=0, le=128)
    """Generate this many choices and answer with the `n` of highest mean log-probability."""
    echo: bool = False
    """Begin each text with the prompt."""
    logprobs: int | None = Field(None, ge=0, le=100)
    """List the log-probability of each token, and this many alternatives, at most the server's `--max-logprobs`."""
    add_special_tokens: bool = True
    """Let the tokenizer put its beginning-of-sequence token before a text."""

    @property
    def wanted_tokens(self) -> int | None:
        """None for the default, which a full context may cut short."""
        return self.max_tokens if "max_tokens" in self.model_fields_set else None

    @property
    def num_choices(self) -> int:
        """Choices to generate for each prompt, of which the best `n` are shown."""
        return self.best_of or self.n

    @property
    def num_logprobs(self) -> int | None:
        """best_of ranks by log-probability, so it needs the chosen token's at least."""
        return 0 if self.logprobs is None and self.num_choices > self.n else self.logprobs

    @property
    def num_prompt_logprobs(self) -> int | None:
        """An echoed prompt shows its tokens' log-probabilities too."""
        wanted = [self.logprobs if self.echo else None, self.prompt_logprobs]
        return max((count for count in wanted if count is not None), default=None)

    def check(self, limits: Limits) -> None:
        """Raise InvalidRequest where fields contradict each other or exceed what the model has."""
        super().check(limits)
        if self.max_tokens == 0 and not self.echo and self.prompt_logprobs is None:
            raise InvalidRequest(
                "max_tokens 0 generates nothing; use it with echo or prompt_logprobs", param="max_tokens"
            )
        if self.suffix:
            self._check_suffix()
        if self.best_of is not None:
            self._check_best_of(self.best_of, limits)
        for prompt in self.prompt or []:
            if isinstance(prompt, list):
                check_token_ids(prompt, limits.vocab_size, "prompt")

    def _check_suffix(self) -> None:
        if self.echo:
            raise InvalidRequest("not together with suffix: the model reads the suffix before its text", param="echo")
        if not all(isinstance(prompt, str) for prompt in self.prompt or []):
            raise InvalidRequest("a suffix needs prompts of text, not of token ids", param="suffix")

    def _check_best_of(self, best_of: int, limits: Limits) -> None:
        if not self.n <= best_of <= limits.max_choices:
            raise InvalidRequest(f"best_of is from n to {limits.max_choices}", param="best_of")
        if self.stream and best_of > self.n:
            raise InvalidRequest("best_of can't be streamed: the best is known at the end", param="best_of")


class CompletionLogprobs(msgspec.Struct):
    """One entry a token in each list. A prompt's first token has no log-probability."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(msgspec.Struct, kw_only=True):
    """One text, or a part of it in a chunk."""

    text: str
    index: int
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    prompt_logprobs: PromptLogprobs | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    """In a stream with the choice's first chunk."""
    token_ids: list[int] | UnsetType = UNSET


class Completion(Envelope, frozen=True, kw_only=True):
    """The answer, and each chunk of a streamed one."""

    choices: list[CompletionChoice]
    usage: UsageField = UNSET
    warnings: Warnings = UNSET
