"""What crosses the border between the API process and the worker: msgspec structs, never pickle."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from model.batch import SamplingParams, TokenLogprobs
from model.description import ModelInfo as ModelInfo
from model.description import RunnerOptions
from model.grammar import Vocabulary

FinishReason = Literal["stop", "length", "abort", "error"]


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker is started with."""

    runner: RunnerOptions
    prefix_caching: bool = True
    speculation: bool = True
    """Whether guesses of the next tokens are made and verified where that is faster."""


class Choice(msgspec.Struct, frozen=True, array_like=True):
    """One sequence to generate for a request."""

    sequence_id: int
    index: int
    emitted: list[int] = []
    """Tokens already generated and sent, when a request goes on in a new worker."""


class Request(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """One prompt and the choices to generate for it."""

    prompt_ids: list[int]
    params: SamplingParams
    choices: list[Choice]
    priority: int = 0
    """Lower goes first."""
    prediction_ids: list[int] = []
    """What the client thinks the text will be; decides how fast it comes, not what it is."""
    cache_salt: str = ""
    """Requests share cached blocks only with requests of the same salt."""

    @classmethod
    def of(
        cls,
        first_id: int,
        prompt_ids: list[int],
        params: SamplingParams,
        num_choices: int,
        priority: int,
        cache_salt: str,
        prediction_ids: Sequence[int],
    ) -> "Request":
        """One whose choices have nothing yet, and ids from `first_id` on."""
        return cls(
            prompt_ids=prompt_ids,
            params=params,
            choices=[Choice(first_id + index, index) for index in range(num_choices)],
            priority=priority,
            cache_salt=cache_salt,
            prediction_ids=list(prediction_ids),
        )


class Abort(msgspec.Struct, frozen=True, tag=True):
    """Stop these sequences and free what they hold. Unknown ids are ignored: they may have just finished."""

    sequence_ids: list[int]


class Lookup(msgspec.Struct, frozen=True, tag=True):
    """A question: how much of this prompt is cached? The next StepResult answers."""

    lookup_id: int
    prompt_ids: list[int]
    cache_salt: str = ""


class Loading(msgspec.Struct, frozen=True, tag=True):
    """The worker is starting: what it does, and how far it is (0 to 1)."""

    phase: str
    fraction: float


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The worker has run a real step and takes requests."""

    model: ModelInfo


class Failed(msgspec.Struct, frozen=True, tag=True):
    """The worker can't start for a reason that a new try will not change (bad model, not enough memory)."""

    reason: str


class Finished(msgspec.Struct, frozen=True, array_like=True):
    """The end of one sequence; follows its last token within the same StepResult."""

    sequence_id: int
    reason: FinishReason
    error: str = ""
    num_accepted: int = 0
    """Tokens of the prediction that were drafts and right."""
    num_rejected: int = 0
    stop_token_id: int | None = None
    """The end-of-sequence or stop token that ended it, which is also its last token."""


class Started(msgspec.Struct, frozen=True, array_like=True):
    """A sequence was scheduled for the first time."""

    sequence_id: int
    num_cached: int
    """Prompt tokens found in the prefix cache."""


class Stats(msgspec.Struct, frozen=True, array_like=True):
    """The engine after a step."""

    num_running: int
    num_waiting: int
    num_blocks_used: int
    """Blocks that a sequence holds; cached blocks that nobody holds count as free."""
    num_preemptions: int
    """Since the worker started."""
    prefix_hit_tokens: int
    """Since the worker started."""
    prefix_query_tokens: int
    """Since the worker started."""
    num_drafts: int = 0
    """Since the worker started."""
    num_accepted_drafts: int = 0
    """Since the worker started."""


class StepResult(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Everything one step gave, for all sequences at once, in columns."""

    sequence_ids: list[int]
    token_ids: list[int]
    """`token_ids[i]` is the next token of `sequence_ids[i]`."""
    stats: Stats
    duration_s: float = 0.0
    started: list[Started] = []
    finished: list[Finished] = []
    logprobs: dict[int, TokenLogprobs] = {}
    """By sequence id."""
    prompt_logprobs: dict[int, list[TokenLogprobs]] = {}
    """By sequence id; parts of one prompt come in order."""
    num_cached: dict[int, int] = {}
    """By lookup id: prompt tokens that a request would find in the prefix cache."""


class Tokens(msgspec.Struct, frozen=True, tag=True):
    """What the model's tokens are as text. Sent once, before the first request that has a grammar."""

    vocabulary: Vocabulary


ToWorker = Request | Abort | Lookup | Tokens
FromWorker = Loading | Ready | Failed | StepResult


class Output(msgspec.Struct, kw_only=True):
    """What the client hands to the API for one choice: everything since the last Output of that choice."""

    index: int
    token_ids: list[int]
    """Usually one; more when the reader is slower than the model."""
    num_cached: int
    """Prompt tokens found in the prefix cache."""
    started_at: float | None = None
    """When its first step began, by this process's time.monotonic(); None until then."""
    logprobs: list[TokenLogprobs] | None = None
    """One for each of `token_ids`, when asked for."""
    prompt_logprobs: list[TokenLogprobs] | None = None
    """Of the prompt's tokens from the second on, complete, with the first Output of the choice, when asked for."""
    finish_reason: FinishReason | None = None
    stop_token_id: int | None = None
    num_accepted: int = 0
    """With the last Output: tokens of the prediction that were drafts and right."""
    num_rejected: int = 0
    error: str = ""
