"""Requests that were accepted and are not finished, with all that a new worker would need to go on with them."""

from collections.abc import Callable, Iterable

import msgspec

from model.batch import TokenLogprobs
from server.engine.messages import Choice, Finished, Output, Request


class PendingChoice:
    """One sequence as the client sees it: enough to go on with it in a new worker."""

    __slots__ = (
        "emitted",
        "finished",
        "generation",
        "index",
        "logprobs",
        "num_cached",
        "num_read",
        "prompt_logprobs",
        "sequence_id",
        "started_at",
    )

    def __init__(self, generation: "PendingGeneration", index: int, sequence_id: int) -> None:
        self.generation = generation
        self.index = index
        self.sequence_id = sequence_id
        self.emitted: list[int] = []
        self.num_read = 0
        """Of those emitted, how many whoever reads the choice has taken."""
        self.num_cached = 0
        self.started_at: float | None = None
        self.logprobs: list[TokenLogprobs] = []
        """Of the emitted tokens that were not read."""
        self.prompt_logprobs: list[TokenLogprobs] = []
        self.finished: Finished | None = None

    def take(self) -> Output:
        """Everything since the last call."""
        params, first = self.generation.request.params, self.num_read == 0
        output = Output(
            index=self.index,
            token_ids=self.emitted[self.num_read :],
            num_cached=self.num_cached,
            started_at=self.started_at,
        )
        self.num_read = len(self.emitted)
        if params.logprobs is not None:
            output.logprobs, self.logprobs = self.logprobs, []
        if params.prompt_logprobs is not None and first:
            output.prompt_logprobs = self.prompt_logprobs
        if self.finished is not None:
            output.finish_reason = self.finished.reason
            output.stop_token_id = self.finished.stop_token_id
            output.error = self.finished.error
            output.num_accepted, output.num_rejected = self.finished.num_accepted, self.finished.num_rejected
        return output


class PendingGeneration:
    """One request, and its choices that are not finished."""

    def __init__(self, request: Request, tell: Callable[[PendingChoice], None]) -> None:
        """`tell` is called with a choice that has something new to read."""
        self.request = request
        self.tell = tell
        self.choices = {
            choice.index: PendingChoice(self, choice.index, choice.sequence_id) for choice in request.choices
        }
        """By index."""
        self.num_deaths = 0
        """How many workers died while they had this request."""

    @property
    def id(self) -> int:
        """That of its first sequence."""
        return self.request.choices[0].sequence_id

    def to_requests(self) -> list[Request]:
        """What a worker must be sent to generate all that is missing."""
        begun = [choice for choice in self.choices.values() if choice.emitted]
        fresh = [choice for choice in self.choices.values() if not choice.emitted]
        # Who has tokens has the prompt's log-probabilities as well.
        params = msgspec.structs.replace(self.request.params, prompt_logprobs=None)
        return [
            msgspec.structs.replace(request, choices=[Choice(c.sequence_id, c.index, c.emitted) for c in choices])
            for request, choices in (
                (msgspec.structs.replace(self.request, params=params), begun),
                (self.request, fresh),
            )
            if choices
        ]


class PendingChoices:
    """The unfinished choices of all requests by the ids of their sequences."""

    def __init__(self) -> None:
        self.by_id: dict[int, PendingChoice] = {}

    def __len__(self) -> int:
        return len(self.by_id)

    def add(self, generation: PendingGeneration) -> None:
        """All choices of a request."""
        for choice in generation.choices.values():
            self.by_id[choice.sequence_id] = choice

    def drop(self, choices: Iterable[PendingChoice]) -> list[int]:
        """Forget these, for which nobody waits any more. Returns the ids of those that were unfinished."""
        dropped = [choice for choice in choices if self.by_id.pop(choice.sequence_id, None) is not None]
        for choice in dropped:
            del choice.generation.choices[choice.index]
        return [choice.sequence_id for choice in dropped]

    def end(self, finished: Finished) -> None:
        """A sequence has ended; that of a choice which was dropped meanwhile doesn't matter."""
        choice = self.by_id.pop(finished.sequence_id, None)
        if choice is not None:
            del choice.generation.choices[choice.index]
            choice.finished = finished
            choice.generation.tell(choice)
