"""`POST /tokenize`, `POST /detokenize` and `GET /tokenizer_info`, in the shapes of vLLM's endpoints."""

from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import Field

from server.errors import InvalidRequest
from server.protocol.chat import Conversation, Message
from server.protocol.common import Name, TokenCount, TokenId
from server.protocol.wire import WireModel


class TokenizeRequest(Conversation):
    """A prompt, or messages as chat renders them."""

    model: Name | None = None
    """A served name; may be left out where one model is served."""
    prompt: str | None = None
    """The text to encode; or give messages."""
    messages: list[Message] = Field([], max_length=4096, fail_fast=True)
    """The turns to render and encode; or give a prompt."""
    return_token_strs: bool = False
    """List the text of each token too."""
    max_tokens: TokenCount | None = None
    """Most tokens that the request is going to ask for; by default, what its endpoint takes without the field."""
    cache_salt: Name | None = None
    """The salt that the request is going to have."""

    def check(self) -> None:
        """Raise InvalidRequest where the fields contradict each other."""
        if (self.prompt is None) == (not self.messages):
            raise InvalidRequest("give either prompt or messages", param="prompt")
        if self.prompt is not None and (others := sorted(self.model_fields_set & _OF_MESSAGES)):
            raise InvalidRequest("it belongs to messages, and there is a prompt", param=others[0])
        self.check_prompt()


_OF_MESSAGES = Conversation.model_fields.keys() - {"add_special_tokens", "messages"}


class DetokenizeRequest(WireModel):
    """Ids to turn into text."""

    model: Name | None = None
    """A served name; may be left out where one model is served."""
    tokens: Annotated[list[TokenId], Field(max_length=2**20)]
    """Token ids."""


class TokenizeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The ids, and what a request with them would cost if it were sent now."""

    count: int
    """Tokens of the prompt."""
    max_model_len: int
    tokens: list[int]
    fits: bool
    """Whether the prompt and what is to be generated fit the model's context together."""
    max_tokens: int
    """Most tokens that would be generated for each choice."""
    cached_tokens: int | None
    """Tokens of the prompt that would not have to be computed; null if the worker had no time to say."""
    expected_ttft_s: float | None
    """Seconds to the first token, as requests of late took them; null before there were any."""
    token_strs: list[str] | UnsetType = UNSET


class DetokenizeAnswer(msgspec.Struct, frozen=True):
    """The text."""

    prompt: str


class TokenizerInfo(msgspec.Struct, frozen=True):
    """The text of the tokens that begin and end one; null where the tokenizer has none."""

    bos_token: str | None
    eos_token: str | None
