"""A runner that checks its cache at every read, and whose next token is a function of all tokens before it."""

from dataclasses import dataclass, field

from model.batch import NOT_SAMPLED, Batch, Join, SamplingParams, StepOutput, TokenLogprobs
from server.engine.draft_planner import MAX_LAG

VOCABULARY = 50


def next_token(token_ids: list[int], params: SamplingParams, choice: int) -> int:
    """The token that a sequence goes on with."""
    return hash((tuple(token_ids), params.seed, choice)) % VOCABULARY


def solo(prompt: list[int], params: SamplingParams, choice: int = 0, eos: frozenset[int] = frozenset()) -> list[int]:
    """What a sequence generates when it is alone in the world."""
    token_ids = list(prompt)
    while len(token_ids) - len(prompt) < params.max_tokens:
        token_ids.append(next_token(token_ids, params, choice))
        if token_ids[-1] in eos or token_ids[-1] in params.stop_token_ids:
            break
    return token_ids[len(prompt) :]


@dataclass
class _Slot:
    token_ids: list[int]
    join: Join
    blocks: dict[int, int] = field(default_factory=dict)
    hashes: list[int] = field(default_factory=list)
    """Of the tokens up to each position, as far as they were asked for."""

    def contents(self, end: int) -> list[int]:
        """What the cache holds at each position before `end` when it was computed from these tokens."""
        for token in self.token_ids[len(self.hashes) : end]:
            self.hashes.append(hash((self.hashes[-1] if self.hashes else 0, token)))
        return self.hashes[:end]


class FakeRunner:
    """Keeps, for every cached position, the tokens up to there, and checks them whenever a row reads them."""

    def __init__(
        self, block_size: int, max_step_tokens: int, max_num_seqs: int, *, is_asynchronous: bool = False
    ) -> None:
        self.is_asynchronous = is_asynchronous
        self.max_in_flight = 0
        self.num_enqueued = self.num_read = 0
        self.block_size = block_size
        self.max_step_tokens = max_step_tokens
        self.max_num_seqs = max_num_seqs
        self.num_computed = 0
        self._slots: dict[int, _Slot] = {}
        self._cache: dict[tuple[int, int], int] = {}
        self._draft_cache: dict[tuple[int, int], int] = {}
        self.num_draft_computed = 0

    def enqueue(self, batch: Batch) -> tuple[int, StepOutput]:
        """A device computes in the order in which it is told; its results are known when they are read."""
        self.num_enqueued += 1
        self.max_in_flight = max(self.max_in_flight, self.num_enqueued - self.num_read)
        return self.num_enqueued, self._compute(batch)

    def read(self, results: tuple[int, StepOutput]) -> StepOutput:
        self.num_read += 1
        assert results[0] == self.num_read, "results are read once, in order"
        return results[1]

    def _compute(self, batch: Batch) -> StepOutput:
        assert 0 < sum(batch.num_new) <= self.max_step_tokens, "the budget is kept and never empty"
        assert len(set(batch.slots)) == len(batch.slots) <= self.max_num_seqs
        self.num_computed += sum(batch.num_new)
        for join in batch.joins:
            self._slots[join.slot] = _Slot(list(join.token_ids), join)
        for slot, index, block in zip(batch.block_slots, batch.block_indexes, batch.block_ids, strict=True):
            self._slots[slot].blocks[index] = block
        self._let_draft_model_compute(batch)
        drafts = batch.drafts | {row: self._propose(batch, row) for row in batch.proposals}
        rows = list(zip(batch.slots, batch.num_computed, batch.num_new, batch.is_sampled, strict=True))
        for row, (slot, start, count, _) in enumerate(rows):
            self._write(self._with_drafts(slot, drafts.get(row, [])), start, start + count)
        output = StepOutput(token_ids=[])
        for row, (slot, start, count, is_sampled) in enumerate(rows):
            state, draft = self._slots[slot], drafts.get(row, [])
            end = start + count - len(draft)
            self._check_context(self._with_drafts(slot, draft), start + count)
            output.token_ids.append(self._draw(state, end) if is_sampled else NOT_SAMPLED)
            if draft:
                output.accepted[row] = self._verify(state, draft)
            if state.join.params.prompt_logprobs is not None and start + 1 < state.join.num_prompt:
                known = state.token_ids[start + 1 : min(start + count + 1, state.join.num_prompt)]
                output.prompt_logprobs[row] = [TokenLogprobs(-float(token), [], []) for token in known]
        return output

    def _let_draft_model_compute(self, batch: Batch) -> None:
        """Its cache must hold all before what it computes, of the same tokens."""
        assert not batch.drafts.keys() & batch.proposals.keys()
        for row, proposal in batch.proposals.items():
            state, end = self._slots[batch.slots[row]], proposal.start + proposal.num_new
            assert 0 < proposal.num_new <= max(self.max_step_tokens, MAX_LAG)
            assert end == len(state.token_ids) if proposal.num_tokens else end <= len(state.token_ids)
            self.num_draft_computed += proposal.num_new
            for position, content in enumerate(state.contents(end)):
                place = self._place(state, position)
                if position < proposal.start:
                    assert self._draft_cache[place] == content, "the draft model lacks what it is taken to have"
                self._draft_cache[place] = content

    def _propose(self, batch: Batch, row: int) -> list[int]:
        """What the draft model guesses, often rightly. It writes over what its cache held after the known tokens."""
        state, num_tokens = self._slots[batch.slots[row]], batch.proposals[row].num_tokens
        token_ids = list(state.token_ids)
        for number in range(num_tokens):
            token = next_token(token_ids, state.join.params, state.join.choice)
            token_ids.append(token if hash((token, number)) % 4 else (token + 1) % VOCABULARY)
            self._draft_cache[self._place(state, len(token_ids) - 1)] = -1
        return token_ids[len(token_ids) - num_tokens :]

    def _with_drafts(self, slot: int, draft: list[int]) -> _Slot:
        state = self._slots[slot]
        if not draft:
            return state
        return _Slot([*state.token_ids, *draft], state.join, state.blocks, list(state.hashes))

    def _verify(self, state: _Slot, draft: list[int]) -> list[int]:
        accepted: list[int] = []
        for guess in draft:
            if state.token_ids[-1] != guess:
                break
            accepted.append(self._draw(state, len(state.token_ids)))
        return accepted

    def _place(self, state: _Slot, position: int) -> tuple[int, int]:
        return state.blocks[position // self.block_size], position % self.block_size

    def _write(self, state: _Slot, start: int, end: int) -> None:
        for position, content in enumerate(state.contents(end)[start:], start):
            self._cache[self._place(state, position)] = content

    def _check_context(self, state: _Slot, end: int) -> None:
        for position, content in enumerate(state.contents(end)):
            found = self._cache.get(self._place(state, position))
            assert found == content, "the cache holds another sequence's tokens"

    def _draw(self, state: _Slot, end: int) -> int:
        assert end == len(state.token_ids), "a row draws exactly when all its tokens are computed"
        token = next_token(state.token_ids, state.join.params, state.join.choice)
        state.token_ids.append(token)
        return token
