"""The state of one generation while the engine knows it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from model.batch import SamplingParams
from server.engine.drafting import Drafter

if TYPE_CHECKING:
    from model.constraint import Constraint


@dataclass(slots=True, eq=False)
class Sequence:
    """Tokens so far, and how many of them have their keys and values in the cache.

    There are no phases: whatever lies between `num_computed` and `num_tokens` is to be computed, be it a prompt, a part
    of one, the last drawn token, or everything again after a preemption.
    """

    id: int
    token_ids: list[int]
    """Prompt, then generated."""
    num_prompt: int
    params: SamplingParams
    eos_token_ids: frozenset[int]
    """The model's tokens that end it (empty with `ignore_eos`)."""
    constraint: "Constraint | None" = None
    """The grammar that it follows, for the runner: nothing here looks into it."""
    drafter: Drafter | None = None
    """Guesses its next tokens; None where drafts are off or can't be verified."""
    choice: int = 0
    priority: int = 0
    arrival: int = 0
    """Number in order of arrival; the rank of a sequence is (priority, arrival), lower first."""
    salt: bytes = b""
    """Cached blocks are shared among sequences of the same salt only."""
    request: bytes = b""
    """Names the request it belongs to."""
    num_unknown: int = 0
    """Tokens after those of `token_ids` that steps on their way draw."""
    num_computed: int = 0
    """Tokens whose keys and values are in the cache or on their way there."""
    num_draft_computed: int = 0
    """The same in the draft model's cache, of known tokens alone."""
    num_cached: int = 0
    """Prompt tokens that were found in the prefix cache when it was first scheduled."""
    blocks: list[int] = field(default_factory=list)
    block_hashes: list[bytes] = field(default_factory=list)
    """Chained hashes of the full blocks of `token_ids`; a prefix of them, extended when needed."""
    num_registered: int = 0
    """How many of `blocks`, from the first on, are known to the prefix cache."""
    num_prompt_logprobs: int = 0
    """Prompt tokens whose log-probabilities were handed out."""
    slot: int = -1
    """Row in the runner's tables; -1 while waiting."""
    num_passes: int = 0
    """How often others were let in before it while it was first in line but lacked blocks."""
    is_started: bool = False
    """Whether it was ever scheduled."""
    is_over: bool = False
    """Whether it has ended or was aborted: what is still drawn for it is thrown away."""
    end_token_ids: frozenset[int] = field(init=False)
    """The tokens that end it: those of the model and of the request."""

    def __post_init__(self) -> None:
        self.end_token_ids = self.eos_token_ids.union(self.params.stop_token_ids)

    @property
    def num_to_compute(self) -> int:
        """Tokens that are not in the cache; 1 for a sequence that just decodes."""
        return self.num_tokens - self.num_computed

    @property
    def num_tokens(self) -> int:
        """Tokens so far, known or not."""
        return len(self.token_ids) + self.num_unknown

    @property
    def num_generated(self) -> int:
        """Tokens drawn so far, known or not."""
        return self.num_tokens - self.num_prompt

    @property
    def owes_prompt_logprobs(self) -> bool:
        """Whether log-probabilities of its prompt are still to be computed."""
        return self.params.prompt_logprobs is not None and self.num_prompt_logprobs < self.num_prompt - 1

    @property
    def stop_token_id(self) -> int | None:
        """The last known token, if it is one that ends a text."""
        last = self.token_ids[-1]
        return last if last in self.end_token_ids else None
