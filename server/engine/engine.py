"""The engine: scheduler and runner joined into add, abort and step. No I/O."""

from collections import deque
from typing import Generic, Literal, Protocol, TypeVar

from model.batch import Batch, SamplingParams, StepOutput
from model.constraint import Constraint
from model.grammar import Vocabulary
from server.engine.drafting import Drafter
from server.engine.grammars import Grammars
from server.engine.messages import Finished, Lookup, Request, Started, Stats, StepResult
from server.engine.progress import Progress
from server.engine.scheduler import Scheduler, SchedulerLimits
from server.engine.sequence import Sequence

ResultsT = TypeVar("ResultsT")

# On an asynchronous device one step is enqueued while the one before is computed, so that the device never waits for
# the host. More would only make whatever arrives or ends wait longer.
MAX_IN_FLIGHT = 2


class Runner(Protocol[ResultsT]):
    """What computes batches: `model.runner.ModelRunner`, or a fake in tests."""

    @property
    def is_asynchronous(self) -> bool:
        """Whether `enqueue` comes back before the batch is computed."""

    def enqueue(self, batch: Batch) -> ResultsT:
        """Compute the batch's tokens and draw the next ones, after all that was enqueued before."""

    def read(self, results: ResultsT) -> StepOutput:
        """What `enqueue` drew; waits until it is there. To be called in the order of `enqueue`, once for each."""


class Engine(Generic[ResultsT]):
    """Generates for many requests at once, one step a call."""

    def __init__(
        self, runner: Runner[ResultsT], limits: SchedulerLimits, max_model_len: int, eos_token_ids: frozenset[int]
    ) -> None:
        self._runner = runner
        self._max_in_flight = MAX_IN_FLIGHT if runner.is_asynchronous else 1
        self._in_flight: deque[ResultsT] = deque()
        self._scheduler = Scheduler(limits)
        self._max_model_len = max_model_len
        self._eos_token_ids = eos_token_ids
        self._grammars = Grammars()
        self._rejected: list[Finished] = []
        self._num_cached: dict[int, int] = {}
        """Answers to lookups, for the next step's result."""

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        has_answers = bool(self._in_flight or self._rejected or self._num_cached)
        return self._scheduler.has_work or has_answers or self._grammars.has_ready

    @property
    def is_compiling(self) -> bool:
        """Whether there will be work without a further request."""
        return self._grammars.is_busy

    def use(self, vocabulary: Vocabulary) -> None:
        """Take requests with a grammar from now on."""
        self._grammars.use(vocabulary)

    def add(self, request: Request) -> None:
        """Queue a request's choices."""
        params = request.params
        room = self._max_model_len - len(request.prompt_ids)
        if not request.prompt_ids or room < params.max_tokens:
            # The API checked this; here it only keeps a wrong request from harming the others.
            error = f"{len(request.prompt_ids)} prompt tokens and {params.max_tokens} more don't fit the model"
            self._reject(request, error)
        elif params.grammar is not None:
            self._grammars.add(request, params.grammar)
        else:
            self._queue(request, None)

    def abort(self, sequence_ids: list[int]) -> None:
        """Drop sequences and free what they hold. Unknown ids are ignored."""
        self._grammars.abort(sequence_ids)
        for sequence_id in sequence_ids:
            self._scheduler.abort(sequence_id)

    def look_up(self, lookup: Lookup) -> None:
        """Let the next step's result say how much of a prompt is cached now."""
        sequence = Sequence(
            id=-1,
            token_ids=lookup.prompt_ids,
            num_prompt=len(lookup.prompt_ids),
            params=SamplingParams(max_tokens=1),
            eos_token_ids=frozenset(),
            salt=lookup.cache_salt.encode(),
        )
        self._num_cached[lookup.lookup_id] = self._scheduler.num_cached(sequence)

    def step(self) -> StepResult:
        """Compute one batch: the device is given as much as it may have, and the oldest results are read."""
        for request, outcome in self._grammars.take_ready():
            if isinstance(outcome, Constraint):
                self._queue(request, outcome)
            else:
                self._reject(request, f"the grammar can't be used: {outcome}")
        self._enqueue()
        progress = Progress()
        if self._in_flight:
            progress = self._scheduler.update(self._runner.read(self._in_flight.popleft()))
        rejected, self._rejected = self._rejected, []
        num_cached, self._num_cached = self._num_cached, {}
        return StepResult(
            sequence_ids=[sequence.id for sequence in progress.sequences],
            token_ids=progress.token_ids,
            stats=self.stats(),
            started=[Started(sequence.id, sequence.num_cached) for sequence in self._scheduler.take_started()],
            finished=rejected + [_finished(sequence, reason) for sequence, reason in progress.finished],
            logprobs=progress.logprobs,
            prompt_logprobs=progress.prompt_logprobs,
            num_cached=num_cached,
        )

    def stats(self) -> Stats:
        """The state of queue and cache."""
        scheduler = self._scheduler
        return Stats(
            num_running=len(scheduler.running),
            num_waiting=len(scheduler.waiting),
            num_blocks_used=scheduler.pool.num_held,
            num_preemptions=scheduler.num_preemptions,
            prefix_hit_tokens=scheduler.prefix_hit_tokens,
            prefix_query_tokens=scheduler.prefix_query_tokens,
            num_drafts=scheduler.num_drafts,
            num_accepted_drafts=scheduler.num_accepted_drafts,
        )

    def _enqueue(self) -> None:
        """Schedule as many steps as may be on their way."""
        while len(self._in_flight) < self._max_in_flight:
            if self._in_flight and self._scheduler.awaits_results:
                return
            batch = self._scheduler.schedule()
            if not batch.slots:
                return
            self._in_flight.append(self._runner.enqueue(batch))

    def _queue(self, request: Request, constraint: Constraint | None) -> None:
        params = request.params
        eos_token_ids = frozenset[int]() if params.ignore_eos else self._eos_token_ids
        for choice in request.choices:
            token_ids = [*request.prompt_ids, *choice.emitted]
            sequence = Sequence(
                id=choice.sequence_id,
                token_ids=token_ids,
                num_prompt=len(request.prompt_ids),
                params=params,
                eos_token_ids=eos_token_ids if constraint is None else constraint.eos_ids,
                choice=choice.index,
                priority=request.priority,
                salt=request.cache_salt.encode(),
                request=request.choices[0].sequence_id.to_bytes(8, "little"),
                constraint=constraint,
                drafter=Drafter(request.prediction_ids, token_ids) if self._may_draft(params) else None,
            )
            self._scheduler.add(sequence)

    def _may_draft(self, params: SamplingParams) -> bool:
        """Whether several tokens of it may be drawn in one step: only the token itself is wanted of each."""
        wants_more = params.logprobs is not None or params.prompt_logprobs is not None or params.grammar is not None
        return self._scheduler.limits.step_costs.largest > 1 and params.max_tokens > 1 and not wants_more

    def _reject(self, request: Request, error: str) -> None:
        self._rejected += [Finished(choice.sequence_id, "error", error) for choice in request.choices]


def _finished(sequence: Sequence, reason: Literal["stop", "length", "error"]) -> Finished:
    if reason == "error":
        return Finished(sequence.id, reason, "the model computed no valid next token")
    drafter = sequence.drafter
    return Finished(
        sequence.id,
        reason,
        num_accepted=drafter.num_accepted if drafter is not None else 0,
        num_rejected=drafter.num_rejected if drafter is not None else 0,
        stop_token_id=sequence.stop_token_id if reason == "stop" else None,
    )
