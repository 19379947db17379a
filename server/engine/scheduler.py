"""What to compute next: a pure state machine over sequences and blocks (no torch, no clock, no I/O)."""

from bisect import insort
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from model.batch import NO_TOKEN, Batch, Join, StepOutput
from server.engine.block_pool import BlockPool
from server.engine.draft_planner import Draft, DraftPlanner
from server.engine.drafting import UNKNOWN_COSTS, StepCosts
from server.engine.prefix_cache import PrefixCache
from server.engine.progress import Progress
from server.engine.sequence import Sequence
from server.engine.step_budget import step_budget

# How often others may be let in before a waiting sequence that lacks blocks; then the door stays shut until it fits.
MAX_PASSES = 64


@dataclass(slots=True, frozen=True)
class SchedulerLimits:
    """What the scheduler may spend."""

    max_num_seqs: int
    """Sequences that can run at once: the number of slots."""
    max_step_tokens: int
    """The token budget of a step; at least `max_num_seqs`, so that every running sequence can decode."""
    num_blocks: int
    block_size: int
    prefix_caching: bool = True
    """Off, blocks are shared only within one request."""
    step_costs: StepCosts = UNKNOWN_COSTS
    """What it costs to verify drafts."""
    draft_costs: StepCosts | None = None
    """What a step of the draft model costs, in the same unit; None without one."""
    prompt_costs: StepCosts = UNKNOWN_COSTS
    """What it costs to compute tokens of a prompt, by which prompts share a step with sequences that decode."""


class Scheduler:
    """Continuous batching with chunked prefill, prefix caching, priorities and preemption by recompute.

    Each step: `schedule()` gives a batch, the runner computes it, `update()` takes the result. Sequences run in order
    of rank (priority, then arrival). When blocks run out, the last one in that order is preempted: it gives its blocks
    back and waits to be computed again. The first in order is never preempted, so some sequence always ends.

    A batch may be scheduled before the results of those before it are here, unless `awaits_results`: a sequence goes on
    by a token that is not known yet, and one that turns out to have ended has what was still drawn for it thrown away.
    Blocks are freed at once even so: a device works in the order in which it is told, so whatever the next holder
    writes there comes after all that is on its way.
    """

    def __init__(self, limits: SchedulerLimits) -> None:
        assert limits.max_step_tokens >= limits.max_num_seqs
        self.limits = limits
        self.pool = BlockPool(limits.num_blocks, limits.block_size)
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.num_preemptions = 0
        self.prefix_hit_tokens = 0
        self.prefix_query_tokens = 0
        self.num_drafts = 0
        self.num_accepted_drafts = 0
        self._sequences: dict[int, Sequence] = {}
        self._free_slots = list(range(limits.max_num_seqs - 1, -1, -1))
        self._num_arrived = 0
        self._planner = DraftPlanner(
            limits.step_costs,
            limits.draft_costs,
            block_size=limits.block_size,
            max_step_tokens=limits.max_step_tokens,
        )
        self._prefix_cache = PrefixCache(self.pool, is_shared=limits.prefix_caching)
        self._in_flight: deque[list[tuple[Sequence, int]]] = deque()
        """The rows, each with its number of drafts, of every batch whose result is not here, oldest first."""
        self._started: list[Sequence] = []

    @property
    def has_work(self) -> bool:
        """Whether any sequence waits or runs."""
        return bool(self._sequences)

    @property
    def awaits_results(self) -> bool:
        """Whether the next batch can't be scheduled before the results of those on their way are here.

        How many drafts are right decides where a row goes on; a guess, the draft model's as well, is made from the
        token before, and so is a grammar's mask; the parts of a prompt's log-probabilities are handed out in order.
        All else is known beforehand.
        """
        for rows in self._in_flight:
            for sequence, num_drafts in rows:
                if num_drafts or sequence.constraint is not None or sequence.owes_prompt_logprobs:
                    return True
                if self._planner.awaits_token(sequence, len(self.running)):
                    return True
        return False

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence behind those of its priority."""
        self._num_arrived += 1
        sequence.arrival = self._num_arrived
        self._sequences[sequence.id] = sequence
        self._prefix_cache.extend_hashes(sequence)
        insort(self.waiting, sequence, key=_rank)

    def abort(self, sequence_id: int) -> bool:
        """Forget a sequence wherever it is. False if it isn't here (any more)."""
        sequence = self._sequences.get(sequence_id)
        if sequence is None:
            return False
        self._forget(sequence)
        return True

    def num_cached(self, sequence: Sequence) -> int:
        """How many tokens of a sequence that is not queued would be found in the cache now."""
        self._prefix_cache.extend_hashes(sequence)
        return len(self._prefix_cache.find(sequence)) * self.limits.block_size

    def take_started(self) -> list[Sequence]:
        """Sequences scheduled for the first time since the last call."""
        started, self._started = self._started, []
        return started

    def schedule(self) -> Batch:
        """The next step's batch. Empty only when nothing is left to compute beside what is on its way."""
        batch = Batch()
        rows: list[tuple[Sequence, int]] = []
        self._preempt_for_priority()
        prompts = [s for s in self.running if len(s.token_ids) - s.num_computed > 1]
        budget = self._budget(len(prompts))
        shares = self._share(prompts, budget)
        # Beside unfinished prompts a step's tokens are worth more than guesses.
        drafts = self._planner.plan(self.running) if not shares else {}
        position = 0
        # The list may lose its tail while this runs: preemption takes from the end.
        while position < len(self.running):
            sequence = self.running[position]
            position += 1
            wanted = len(sequence.token_ids) + sequence.num_unknown - sequence.num_computed
            if wanted > 1:
                wanted = shares[sequence.id]
            elif sequence.num_unknown and sequence.num_generated >= sequence.params.max_tokens:
                continue  # its last token is on its way
            num_new = self._grow(sequence, wanted, batch)
            if num_new:
                budget -= num_new
                num_drafts = 0
                if sequence.id in drafts:
                    num_after = len(self.running) - position
                    num_drafts = self._put_draft(sequence, drafts[sequence.id], num_after, budget, batch)
                    budget -= num_drafts
                rows.append(self._put(sequence, num_new, num_drafts, batch))
        rows += self._admit(budget, batch)
        if rows:
            self._in_flight.append(rows)
        return batch

    def update(self, output: StepOutput) -> Progress:
        """Take the result of the oldest batch whose result was not taken."""
        progress, block_size = Progress(), self.limits.block_size
        token_ids, logprobs, prompt_logprobs = output.token_ids, output.logprobs, output.prompt_logprobs
        for row, (sequence, num_drafts) in enumerate(self._in_flight.popleft()):
            if sequence.is_over:
                continue  # aborted, or ended by the token before
            if row in prompt_logprobs:
                progress.add_prompt_logprobs(sequence, prompt_logprobs[row])
            token = token_ids[row]
            if token == NO_TOKEN:
                progress.finished.append((sequence, "error"))
                continue
            if token >= 0:
                sequence.num_unknown -= 1
                progress.add_token(sequence, token, row in output.completed)
                if row in logprobs:
                    progress.logprobs[sequence.id] = logprobs[row]
                if num_drafts:
                    self._take_accepted(sequence, num_drafts, output.accepted[row], progress)
            if sequence.num_computed // block_size > sequence.num_registered:
                self._prefix_cache.register(sequence)
        for sequence, _ in progress.finished:
            self._forget(sequence)
        return progress

    def check(self) -> None:
        """Raise AssertionError if blocks, slots or lists disagree. For tests: costs O(blocks)."""
        self.pool.check(sequence.blocks for sequence in self.running)
        slots = [sequence.slot for sequence in self.running]
        assert sorted(slots + self._free_slots) == list(range(self.limits.max_num_seqs)), (
            "a slot is lost or taken twice"
        )
        assert all(s.slot < 0 and not s.blocks and not s.num_computed for s in self.waiting), "a waiting sequence holds"
        assert {s.id for s in self.waiting} | {s.id for s in self.running} == set(self._sequences)
        assert self.running == sorted(self.running, key=_rank)
        assert self.waiting == sorted(self.waiting, key=_rank)
        self._prefix_cache.check(self.running)

    def _preempt_for_priority(self) -> None:
        """Make room for a waiting sequence that is more urgent than one that runs."""
        while self.waiting and self.running and self.waiting[0].priority < self.running[-1].priority:
            needed = self._num_blocks_for(len(self.waiting[0].token_ids)) - self.pool.num_available
            if self._free_slots and needed <= 0:
                return
            less_urgent = [s.blocks for s in self.running if s.priority > self.waiting[0].priority]
            if needed > self.pool.num_freed_by(less_urgent):
                return  # it wouldn't fit even without them
            self._preempt(self.running[-1])

    def _budget(self, num_unfinished: int) -> int:
        """How many tokens this step may compute, where so many of the running prompts are unfinished."""
        limits = self.limits
        num_decoding = len(self.running) - num_unfinished
        num_prompts = num_unfinished + min(len(self.waiting), len(self._free_slots))
        return step_budget(num_decoding, num_prompts, limits.prompt_costs, limits.max_step_tokens)

    def _share(self, prompts: list[Sequence], budget: int) -> dict[int, int]:
        """How many tokens each of these unfinished running prompts may compute in this step, by sequence id.

        What decoding leaves is split: half for the first prompt in order of rank, so that it can't starve; the other
        half for the shortest ones, running or waiting, so that they don't queue behind a long one. Either takes what
        the other leaves over.
        """
        if not prompts:
            return {}
        budget -= len(self.running) - len(prompts)
        first = prompts[0]
        others = sorted(prompts[1:] + (self.waiting if self._free_slots else []), key=_shortness)
        shares = {first.id: _first_share(first, others, budget)}
        budget -= shares[first.id]
        for sequence in others:
            shares[sequence.id] = min(sequence.num_to_compute, budget)
            budget -= shares[sequence.id]
        return shares

    def _put_draft(self, sequence: Sequence, draft: Draft, num_after: int, budget: int, batch: Batch) -> int:
        """Add guesses to the row that is put next, if free blocks hold them: nobody is preempted for a guess.

        `num_after` rows come after it, each of which needs a token of the budget and may need a block. Returns how many
        guesses were added.
        """
        if draft.num_tokens > budget - num_after:
            return 0
        needed = self._num_blocks_for(len(sequence.token_ids) + draft.num_tokens) - len(sequence.blocks)
        if needed > 0 and needed > self.pool.num_available - num_after:
            return 0
        self._allocate(sequence, max(needed, 0), batch)
        if draft.proposal is None:
            batch.drafts[len(batch.slots)] = draft.guess
        else:
            batch.proposals[len(batch.slots)] = draft.proposal
            self._planner.note_computed(sequence, draft.proposal)
        return draft.num_tokens

    def _grow(self, sequence: Sequence, num_new: int, batch: Batch) -> int:
        """Give a running sequence the blocks for its next tokens, preempting from the end of the line if need be.

        Returns for how many of `num_new` tokens it has blocks now: fewer, even 0, if it is itself the last in line.
        """
        block_size = self.limits.block_size
        if sequence.num_computed + num_new <= len(sequence.blocks) * block_size:
            return num_new
        needed = self._num_blocks_for(sequence.num_computed + num_new) - len(sequence.blocks)
        while needed > self.pool.num_available and self.running[-1] is not sequence:
            self._preempt(self.running[-1])
        self._allocate(sequence, min(needed, self.pool.num_available), batch)
        return min(num_new, len(sequence.blocks) * block_size - sequence.num_computed)

    def _admit(self, budget: int, batch: Batch) -> list[tuple[Sequence, int]]:
        """Let waiting sequences in: the first in rank, then the shortest, while slots, blocks and budget last.

        Returns their rows.
        """
        rows: list[tuple[Sequence, int]] = []
        if not (self.waiting and self._free_slots and budget):
            return rows
        first, *others = self.waiting
        others.sort(key=_shortness)
        limit = _first_share(first, others, budget)
        for sequence in [first, *others]:
            if not (self._free_slots and budget):
                return rows
            if sequence.num_unknown:
                continue  # just preempted: what it was drawn is still on its way
            cached = self._prefix_cache.find(sequence)
            if self._prefix_cache.is_in_progress(sequence, len(cached)):
                continue
            if self._fits(sequence, cached):
                self._enter(sequence, cached, batch)
                num_new = self._grow(sequence, min(sequence.num_to_compute, budget, limit), batch)
                rows.append(self._put(sequence, num_new, 0, batch))
                budget -= num_new
            elif sequence is first:
                first.num_passes += 1
                if first.num_passes > MAX_PASSES:
                    return rows
            limit = budget
        return rows

    def _fits(self, sequence: Sequence, cached: list[int]) -> bool:
        """Whether all that it has to compute fits now. With nothing else running, one block is enough to begin."""
        available = self.pool.num_available - self.pool.num_cached_among(cached)
        needed = self._num_blocks_for(len(sequence.token_ids)) - len(cached)
        return needed <= available or (not self.running and available > 0)

    def _enter(self, sequence: Sequence, cached: list[int], batch: Batch) -> None:
        """Move a sequence from waiting to running: a slot, and the cached blocks of its beginning."""
        self.waiting.remove(sequence)
        insort(self.running, sequence, key=_rank)
        sequence.slot = self._free_slots.pop()
        sequence.num_passes = 0
        self.pool.hold(cached)
        self._record_blocks(sequence, cached, batch)
        sequence.num_registered = len(cached)
        sequence.num_computed = len(cached) * self.limits.block_size
        self._prefix_cache.claim(sequence)
        batch.joins.append(
            Join(
                sequence.slot,
                list(sequence.token_ids),
                sequence.num_prompt,
                sequence.choice,
                sequence.params,
                sequence.constraint,
            )
        )
        if not sequence.is_started:
            sequence.is_started = True
            sequence.num_cached = min(sequence.num_computed, sequence.num_prompt)
            self.prefix_hit_tokens += sequence.num_cached
            self.prefix_query_tokens += sequence.num_prompt
            self._started.append(sequence)

    def _put(self, sequence: Sequence, num_new: int, num_drafts: int, batch: Batch) -> tuple[Sequence, int]:
        """Add the sequence's row. Returns it as `_in_flight` keeps it."""
        batch.slots.append(sequence.slot)
        batch.num_computed.append(sequence.num_computed)
        batch.num_new.append(num_new + num_drafts)
        sequence.num_computed += num_new
        is_sampled = sequence.num_computed == len(sequence.token_ids) + sequence.num_unknown
        batch.is_sampled.append(is_sampled)
        sequence.num_unknown += is_sampled
        return sequence, num_drafts

    def _take_accepted(self, sequence: Sequence, num_drafts: int, tokens: list[int], progress: Progress) -> None:
        assert sequence.drafter is not None
        num_taken = progress.add_accepted(sequence, tokens)
        sequence.drafter.learn(num_drafts, num_taken)
        self.num_drafts += num_drafts
        self.num_accepted_drafts += num_taken

    def _forget(self, sequence: Sequence) -> None:
        if sequence.slot < 0:
            self.waiting.remove(sequence)
        else:
            self._leave(sequence)
        sequence.is_over = True
        del self._sequences[sequence.id]

    def _preempt(self, sequence: Sequence) -> None:
        self.num_preemptions += 1
        self._leave(sequence)
        insort(self.waiting, sequence, key=_rank)

    def _leave(self, sequence: Sequence) -> None:
        """Take a running sequence's slot and blocks back. The one place where blocks are freed."""
        self.running.remove(sequence)
        self._free_slots.append(sequence.slot)
        self._prefix_cache.disclaim(sequence)
        self.pool.release(sequence.blocks)
        sequence.slot = -1
        sequence.blocks = []
        sequence.num_computed = 0
        sequence.num_draft_computed = 0
        sequence.num_registered = 0

    def _allocate(self, sequence: Sequence, count: int, batch: Batch) -> None:
        blocks = self.pool.allocate(count)
        self._planner.note_overwritten(blocks)
        self._record_blocks(sequence, blocks, batch)

    def _record_blocks(self, sequence: Sequence, blocks: list[int], batch: Batch) -> None:
        """Append to a sequence's block table, here and (through the batch) in the runner."""
        index = len(sequence.blocks)
        batch.block_slots += [sequence.slot] * len(blocks)
        batch.block_indexes += range(index, index + len(blocks))
        batch.block_ids += blocks
        sequence.blocks += blocks

    def _num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.limits.block_size)


def _rank(sequence: Sequence) -> tuple[int, int]:
    return sequence.priority, sequence.arrival


def _shortness(sequence: Sequence) -> tuple[int, int, int]:
    return sequence.priority, len(sequence.token_ids) - sequence.num_computed, sequence.arrival


def _first_share(first: Sequence, others: Iterable[Sequence], budget: int) -> int:
    """What the first of several prompts may compute: half the budget, and what the others leave of the rest."""
    wanted_by_others = sum(sequence.num_to_compute for sequence in others)
    return min(first.num_to_compute, budget - min(budget // 2, wanted_by_others))
