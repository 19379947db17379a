"""Which sequences try how many guesses in a step: those of their own text, or the draft model's.

A guess from the text costs nothing to make, one of the draft model a step of that model. The draft model works only for
sequences that want its guesses, so a step without them costs what it would cost without a draft model. Its cache
therefore lags behind: what it lacks of a sequence it computes before it guesses, and a long prompt in pieces, once the
text has shown to be long enough for that to come back.
"""

from collections.abc import Sequence as Several
from dataclasses import dataclass, field, replace

from model.batch import Proposal
from server.engine.drafting import MAX_DRAFTS, Record, StepCosts
from server.engine.sequence import Sequence

# Guesses must promise this much more speed: estimates are rough, and a loss is worse than a missed gain.
MIN_GAIN = 1.1
# Tokens that the draft model computes and guesses after in one step. What it lacks more it computes beforehand.
MAX_LAG = 2 * MAX_DRAFTS


@dataclass(slots=True, frozen=True)
class Draft:
    """What one sequence tries in a step: a guess, or what the draft model does for it."""

    guess: list[int]
    proposal: Proposal | None = None

    @property
    def num_tokens(self) -> int:
        """How many tokens are guessed; 0 where the draft model only computes what it lacks."""
        return len(self.guess) if self.proposal is None else self.proposal.num_tokens


@dataclass(slots=True, frozen=True)
class Offer:
    """What one sequence could try: its guess, or up to `max_length` tokens of the draft model."""

    sequence_id: int
    record: Record
    """How good such guesses were."""
    max_length: int
    guess: list[int] = field(default_factory=list)
    start: int = 0
    lag: int = 0
    """Known tokens from `start` on that the draft model must compute before it guesses; 0 for a guess from the text."""

    def draft(self, length: int) -> Draft:
        """The offer, cut to this length."""
        if not self.lag:
            return Draft(self.guess[:length])
        return Draft([], Proposal(self.start, self.lag, min(length, self.max_length)))


class DraftPlanner:
    """Plans each step's drafts, and knows what the draft model has in its cache."""

    def __init__(
        self, costs: StepCosts, draft_costs: StepCosts | None, *, block_size: int, max_step_tokens: int
    ) -> None:
        """`draft_costs`: of the draft model's steps, in the same unit as `costs`; None without a draft model."""
        self._costs = costs
        self._draft_costs = draft_costs
        self._block_size = block_size
        self._max_step_tokens = max_step_tokens
        self._full_blocks: set[int] = set()
        """Blocks whose every token the draft model has computed."""

    def awaits_token(self, sequence: Sequence, num_running: int) -> bool:
        """Whether the next step may try guesses after its last token, which must be known for that."""
        drafter = sequence.drafter
        if drafter is None or not self._is_small_enough(num_running):
            return False
        return drafter.is_hopeful or (self._draft_costs is not None and not drafter.proposals.is_paused)

    def plan(self, running: Several[Sequence]) -> dict[int, Draft]:
        """Drafts that are worth their time, by sequence id, when all running sequences decode."""
        if not self._is_small_enough(len(running)):
            return {}
        offers: list[Offer] = []
        late: list[Offer] = []
        for sequence in running:
            offer = self._offer(sequence)
            if offer is not None:
                (late if offer.lag > MAX_LAG else offers).append(offer)
        if not offers and not late:
            return {}
        is_catching_up = bool(late) and self._is_worth_catching_up(late, offers, running)
        length, chosen = self._choose(offers, len(running))
        # While others catch up, these wait for them: together they may be worth what each alone is not.
        for offer in [] if is_catching_up else [*offers, *late]:
            if offer.lag and offer not in chosen:
                offer.record.pause()
        drafts = {offer.sequence_id: offer.draft(length) for offer in chosen}
        if is_catching_up:
            first = late[0]
            drafts[first.sequence_id] = Draft([], Proposal(first.start, min(first.lag, self._max_step_tokens)))
        return drafts

    def note_computed(self, sequence: Sequence, proposal: Proposal) -> None:
        """The draft model is told to compute this."""
        sequence.num_draft_computed = proposal.start + proposal.num_new
        first, end = proposal.start // self._block_size, sequence.num_draft_computed // self._block_size
        self._full_blocks.update(sequence.blocks[first:end])

    def note_overwritten(self, blocks: Several[int]) -> None:
        """They get other content from now on."""
        self._full_blocks.difference_update(blocks)

    def _is_small_enough(self, num_running: int) -> bool:
        """Whether a step of so many rows has room for a guess each, as far as its cost is known."""
        return 2 * num_running <= self._costs.largest

    def _offer(self, sequence: Sequence) -> Offer | None:
        drafter, room = sequence.drafter, sequence.params.max_tokens - sequence.num_generated - 1
        if drafter is None or room <= 0 or sequence.num_unknown:
            return None
        guess = drafter.guess()[:room]
        if guess:
            return Offer(sequence.id, drafter.ngrams, len(guess), guess)
        if self._draft_costs is None or drafter.proposals.is_paused:
            return None
        start = self._num_draft_computed(sequence)
        lag = len(sequence.token_ids) - start
        return Offer(sequence.id, drafter.proposals, min(room, MAX_DRAFTS), start=start, lag=lag)

    def _num_draft_computed(self, sequence: Sequence) -> int:
        """How much of it the draft model has computed, for it or for others that hold the same blocks."""
        if len(sequence.token_ids) - sequence.num_draft_computed > MAX_LAG:
            index = sequence.num_draft_computed // self._block_size
            while index < len(sequence.blocks) and sequence.blocks[index] in self._full_blocks:
                index += 1
                sequence.num_draft_computed = index * self._block_size
        return sequence.num_draft_computed

    def _choose(self, offers: list[Offer], num_rows: int) -> tuple[int, list[Offer]]:
        """The offers that make the step fastest, all or those from the text alone, and their length."""
        from_text = [offer for offer in offers if not offer.lag]
        length, speedup = best_length(from_text, num_rows, self._costs)
        if len(from_text) < len(offers):
            length_of_all, speedup_of_all = best_length(offers, num_rows, self._costs, self._draft_costs)
            if speedup_of_all > speedup:
                return length_of_all, offers
        return length, from_text if length else []

    def _is_worth_catching_up(self, late: list[Offer], offers: list[Offer], running: Several[Sequence]) -> bool:
        """Whether what the draft model lacks of the first in `late` would come back in time.

        Nobody knows how long a text will be: it is taken to go on for as long as it has gone on so far. So a short
        answer to a long prompt costs nothing, and a long one never more than what it was expected to save.
        """
        assert self._draft_costs is not None
        first = late[0]
        (sequence,) = (one for one in running if one.id == first.sequence_id)
        in_time = [replace(offer, lag=1) for offer in late]
        _, speedup = best_length([*offers, *in_time], len(running), self._costs, self._draft_costs)
        num_steps = min(sequence.num_generated, sequence.params.max_tokens - sequence.num_generated)
        saved = (1 - 1 / speedup) * num_steps * self._costs.at(len(running))
        return saved >= self._draft_costs.at(first.lag)


def best_length(
    offers: Several[Offer], num_rows: int, costs: StepCosts, draft_costs: StepCosts | None = None
) -> tuple[int, float]:
    """The length, one for all offers, that makes a step bring most tokens for its time, and how much faster it is then.

    `num_rows` sequences decode in the step, those of the offers among them. (0, 1.0) if no length promises enough.
    """
    best = (0, 1.0)
    for length in range(1, MAX_DRAFTS + 1):
        lengths = [min(length, offer.max_length) for offer in offers]
        num_tokens = num_rows + sum(lengths)
        if num_tokens > costs.largest:
            break
        cost = costs.at(num_tokens)
        if draft_costs is not None:
            cost += _proposing_cost(offers, length, draft_costs)
        gained = sum(_expected(offer.record.rate, number) for offer, number in zip(offers, lengths, strict=True))
        speedup = (1 + gained / num_rows) * costs.at(num_rows) / cost
        if speedup > max(best[1], MIN_GAIN):
            best = (length, speedup)
    return best


def _proposing_cost(offers: Several[Offer], length: int, costs: StepCosts) -> float:
    """Of the draft model's steps: one over all that it lacks, which makes the first guess, then one for each other."""
    limits = [offer.max_length for offer in offers if offer.lag]
    nums_of_rows = [sum(limit > ahead for limit in limits) for ahead in range(1, length)]
    return costs.at(sum(offer.lag for offer in offers)) + sum(
        costs.at(num_rows) for num_rows in nums_of_rows if num_rows
    )


def _expected(rate: float, length: int) -> float:
    """Right guesses among `length`, each right with chance `rate` if all before it were."""
    return sum(rate**count for count in range(1, length + 1))
