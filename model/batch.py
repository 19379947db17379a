"""What the engine and the runner say to each other: plain data in columns, no torch.

Terms: a *slot* is a sequence's row in the runner's tables (tokens so far, block table, sampling parameters).
A sequence holds one slot from its first step until it finishes or is preempted.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec

from model.grammar import Grammar
from model.thinking import ThinkingBudget

if TYPE_CHECKING:
    from model.constraint import Constraint


class SamplingParams(msgspec.Struct, frozen=True, kw_only=True):
    """How one sequence's next token is chosen and when it ends. Ranges were checked where the request came in."""

    max_tokens: int
    """Most tokens to generate. 0 computes the prompt alone (with `prompt_logprobs`)."""
    min_tokens: int = 0
    """While fewer were generated, no end-of-sequence or stop token can be drawn."""
    temperature: float = 1.0
    """0 is greedy."""
    top_k: int = 0
    """0 is off."""
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    """1 is off."""
    repetition_penalty: float = 1.0
    """Over prompt and generated tokens: positive logits divided, negative multiplied (Keskar et al. 2019)."""
    presence_penalty: float = 0.0
    """Subtracted once from the logit of each generated token."""
    frequency_penalty: float = 0.0
    """Subtracted from a token's logit for each time it was generated."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    allowed_token_ids: tuple[int, ...] = ()
    """If not empty, nothing else can be drawn."""
    bad_words: tuple[tuple[int, ...], ...] = ()
    """Sequences of tokens that are not to be completed. They need a grammar, if only one that allows everything."""
    seed: int = 0
    """64 bits. Draw number i of choice c is a function of (seed, c, i) and the logits, of nothing else."""
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    """None: not wanted. 0: the chosen token's alone. k: the k most likely tokens' too."""
    prompt_logprobs: int | None = None
    """The same for the prompt's tokens after the first."""
    grammar: Grammar | None = None
    """What the text must match when it ends by itself. It decides where it may end: `ignore_eos` changes nothing then,
    and `min_tokens` holds back an end only while something else may follow."""
    thinking: ThinkingBudget | None = None
    """When its thoughts end at the latest. Needs a grammar, if only one that allows everything."""


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Log-probabilities at one position, of the distribution before any penalty or temperature."""

    chosen: float
    top_ids: list[int]
    """Most likely first; as many as were asked for."""
    top: list[float]


@dataclass(slots=True, frozen=True)
class Join:
    """A sequence that takes a slot with this step, newly or again after preemption."""

    slot: int
    token_ids: list[int]
    """All tokens known so far: the prompt, then what was generated before a preemption."""
    num_prompt: int
    choice: int
    """Which of the request's choices this is: part of the key of its random draws."""
    params: SamplingParams
    constraint: "Constraint | None" = None
    """The compiled `params.grammar`, which `params.thinking` narrows."""


@dataclass(slots=True, frozen=True)
class Proposal:
    """What the draft model does for one row, before the step is computed."""

    start: int
    num_new: int
    """It computes this many known tokens from `start` on, which it lacks."""
    num_tokens: int = 0
    """If not 0, `num_new` reaches the last known token, and it guesses this many after that."""


@dataclass(slots=True)
class Batch:
    """One step. Row r computes `num_new[r]` tokens of the sequence in `slots[r]`, which has `num_computed[r]` in cache.

    The tokens themselves are not sent: the runner has them in its table, since a join brought them or it sampled them.
    """

    slots: list[int] = field(default_factory=list)
    num_computed: list[int] = field(default_factory=list)
    num_new: list[int] = field(default_factory=list)
    is_sampled: list[bool] = field(default_factory=list)
    """Whether the row reaches the sequence's last known token, so that the next one is drawn."""
    drafts: dict[int, list[int]] = field(default_factory=dict)
    """By row: guesses of the tokens after the last known one, which `num_new` counts. After each a token is drawn."""
    proposals: dict[int, Proposal] = field(default_factory=dict)
    """By row, for rows without `drafts`: what the draft model computes, and how many drafts it makes. `num_new` counts
    these as well."""
    joins: list[Join] = field(default_factory=list)
    block_slots: list[int] = field(default_factory=list)
    """With the next two: `block_tables[block_slots[i], block_indexes[i]] = block_ids[i]` before this step."""
    block_indexes: list[int] = field(default_factory=list)
    block_ids: list[int] = field(default_factory=list)


@dataclass(slots=True)
class StepOutput:
    """What a step drew, one entry for each row of the batch."""

    token_ids: list[int]
    """The drawn token; `NOT_SAMPLED` for rows that draw none, `NO_TOKEN` where the logits hold a NaN or allow none."""
    accepted: dict[int, list[int]] = field(default_factory=dict)
    """By row with drafts: the tokens drawn after the first, as long as all drafts before them were right."""
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)
    """By row, for sampled rows whose sequence asked."""
    prompt_logprobs: dict[int, list[TokenLogprobs]] = field(default_factory=dict)
    """By row, for rows whose sequence asked: of prompt tokens `num_computed + 1` to `num_computed + num_new`, as far
    as these are still prompt."""
    completed: set[int] = field(default_factory=set)
    """Rows whose grammar lets nothing follow the drawn token."""


NOT_SAMPLED = -1
NO_TOKEN = -2
