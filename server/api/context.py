"""What every endpoint is given."""

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from starlette.requests import Request

from model.grammar import ANYTHING, Grammar
from server.api.auth import KeyRing
from server.api.bad_words import without_bad_words
from server.api.body import json_body
from server.api.exchange import exchange_of
from server.api.generation import Prompt, Run
from server.api.grammars import GrammarDoor
from server.api.resumable import ResumableStreams, is_asked_to_keep
from server.api.siblings import Sibling, Siblings
from server.errors import InvalidRequest
from server.metrics import Metrics
from server.protocol.common import GenerationRequest, Limits
from server.protocol.wire import WireModel
from server.served import ServedModel, ServedModels
from server.store import ChatStore
from server.text.channels import ChannelPlan

# Entries of log-probabilities that one answer may hold at once, some hundred bytes each.
MAX_LOGPROB_ENTRIES = 2**22

T = TypeVar("T", bound=WireModel)


class ApiSettings(Protocol):
    """The settings that endpoints need."""

    @property
    def max_body_bytes(self) -> int: ...
    @property
    def max_choices(self) -> int: ...
    @property
    def max_waiting(self) -> int: ...
    @property
    def max_logprobs(self) -> int: ...
    @property
    def strict_fields(self) -> bool: ...
    @property
    def stream_resume_s(self) -> float: ...


@dataclass(frozen=True, slots=True)
class ApiContext:
    """The served models, the keys and the limits, with the few questions that endpoints ask of them together."""

    served: ServedModels
    settings: ApiSettings
    keys: KeyRing
    metrics: Metrics
    streams: ResumableStreams
    store: ChatStore | None = None
    """None: answers are not stored."""
    siblings: Siblings | None = None
    """None: no other process serves this port."""
    grammars: GrammarDoor = field(default_factory=GrammarDoor)

    def body(self, model: type[T]) -> Callable[[Request], Awaitable[T]]:
        """A dependency that reads the body as `model`."""
        settings = self.settings
        return json_body(
            model,
            max_bytes=settings.max_body_bytes,
            strict_fields=settings.strict_fields,
            is_kept=self._may_pass_on,
        )

    def home_of(self, request_id: str) -> Sibling | None:
        """The other process that keeps the stream of this request, or would, if it isn't this one."""
        return None if self.siblings is None else self.siblings.home_of(request_id)

    def _may_pass_on(self, request: Request) -> bool:
        return is_asked_to_keep(request) and self.home_of(exchange_of(request).request_id) is not None

    def limits(self, model: ServedModel) -> Limits:
        """What requests to this model are checked against. Raises NotReady while it loads."""
        info = model.info
        return Limits(
            vocab_size=info.vocab_size,
            max_model_len=info.max_model_len,
            max_choices=min(self.settings.max_choices, info.max_num_seqs),
            max_logprobs=self.settings.max_logprobs,
            eos_token_ids=model.tokenizer_eos_ids,
        )

    def cache_salt(self, request: Request, chosen: str | None) -> str:
        """What a request's prompts share cached blocks by.

        The key goes first: no salt that a client can choose reaches what another key's requests left in the cache.
        """
        return "/".join(filter(None, (self.keys.identify(request), chosen)))

    def run(
        self,
        request: Request,
        body: GenerationRequest,
        model: ServedModel,
        prompts: list[Prompt],
        channels: ChannelPlan | None = None,
    ) -> Run:
        """The generation that answers the request; nothing runs before its pieces are read.

        Raises InvalidRequest for an answer too large to hold, or more choices than the server ever has places for.
        """
        _check_size(body, prompts)
        _check_places(len(prompts), body, model.info.max_num_seqs + self.settings.max_waiting)
        prompts = without_bad_words(prompts, body, model)
        _check_grammars(body, [prompt.params.grammar for prompt in prompts])
        exchange = exchange_of(request)
        exchange.request_id = body.request_id or exchange.request_id
        exchange.log_fields |= {
            "model": model.name,
            "num_prompts": len(prompts),
            "prompt_tokens": sum(len(prompt.token_ids) for prompt in prompts),
            "num_choices": body.num_choices,
            "stream": int(body.stream),
        }
        for name, value in (("user", body.user), ("safety_identifier", body.safety_identifier)):
            if value is not None:
                exchange.log_fields[name] = hashlib.sha256(value.encode()).hexdigest()[:12]
        cache_salt = self.cache_salt(request, body.cache_salt)
        run = Run(
            body,
            model,
            prompts,
            channels=channels,
            cache_salt=cache_salt,
            request_id=exchange.request_id,
            metrics=self.metrics,
        )
        exchange.receipt = run.receipt
        return run


def _check_grammars(body: GenerationRequest, grammars: Sequence[Grammar | None]) -> None:
    for grammar in filter(None, grammars):
        is_free = grammar == ANYTHING
        for param, is_refused in (
            ("allowed_token_ids", bool(body.allowed_token_ids)),
            ("ignore_eos", body.ignore_eos and is_free),
        ):
            if is_refused:
                other = body.narrowing_field if is_free else body.form_field
                raise InvalidRequest(f"{param} and {other} can't both be kept: leave one of them out", param=param)


def _check_size(body: GenerationRequest, prompts: list[Prompt]) -> None:
    num_entries = 0
    if body.num_prompt_logprobs is not None:
        num_entries += sum(len(prompt.token_ids) for prompt in prompts) * (1 + body.num_prompt_logprobs)
    # A stream's are sent as they come.
    if body.num_logprobs is not None and not body.stream:
        num_entries += sum(prompt.params.max_tokens for prompt in prompts) * (1 + body.num_logprobs)
    if num_entries * body.num_choices > MAX_LOGPROB_ENTRIES:
        raise InvalidRequest(
            f"more than {MAX_LOGPROB_ENTRIES} log-probabilities; ask for fewer tokens, choices or alternatives",
            param="prompt_logprobs" if body.num_logprobs is None else body.logprobs_field,
        )


def _check_places(num_prompts: int, body: GenerationRequest, num_places: int) -> None:
    # A full queue is worth another try (429), a request that is larger than the queue is not.
    if num_prompts * body.num_choices > num_places:
        raise InvalidRequest(
            f"{num_prompts} prompts with {body.num_choices} choices each (n, best_of) are more than the {num_places} "
            "sequences that this server can hold; send fewer prompts at once",
            param=body.prompt_field,
        )
