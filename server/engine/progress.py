"""What a step brought, for the engine to report."""

from dataclasses import dataclass, field
from typing import Literal

from model.batch import TokenLogprobs
from server.engine.sequence import Sequence


@dataclass(slots=True)
class Progress:
    """New tokens in columns, and what else sequences got or came to. Sequences are changed as it is added to."""

    sequences: list[Sequence] = field(default_factory=list)
    token_ids: list[int] = field(default_factory=list)
    """`token_ids[i]` is the new token of `sequences[i]`."""
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)
    """By sequence id."""
    prompt_logprobs: dict[int, list[TokenLogprobs]] = field(default_factory=dict)
    """By sequence id."""
    finished: list[tuple[Sequence, Literal["stop", "length", "error"]]] = field(default_factory=list)

    def add_token(self, sequence: Sequence, token: int, is_complete: bool) -> None:
        """The sequence goes on by a token, if it wants any. `is_complete`: its grammar lets nothing follow."""
        max_tokens, token_ids = sequence.params.max_tokens, sequence.token_ids
        if max_tokens == 0:
            self.finished.append((sequence, "length"))
            return
        token_ids.append(token)
        if sequence.drafter is not None:
            sequence.drafter.extend(token)
        self.sequences.append(sequence)
        self.token_ids.append(token)
        if is_complete or token in sequence.end_token_ids:
            self.finished.append((sequence, "stop"))
        elif len(token_ids) - sequence.num_prompt >= max_tokens:
            self.finished.append((sequence, "length"))

    def add_accepted(self, sequence: Sequence, tokens: list[int]) -> int:
        """Add what was drawn after right drafts, as far as the sequence goes on. Returns how many tokens.

        With each, the draft before it turns out to be computed.
        """
        num_taken = 0
        for token in tokens:
            if self.finished and self.finished[-1][0] is sequence:
                break
            self.add_token(sequence, token, False)
            sequence.num_computed += 1
            num_taken += 1
        return num_taken

    def add_prompt_logprobs(self, sequence: Sequence, entries: list[TokenLogprobs]) -> None:
        """Hand out those of the prompt's tokens computed in this step that were not handed out before a preemption."""
        start = sequence.num_prompt_logprobs
        end = min(sequence.num_computed, sequence.num_prompt - 1)
        if end > start:
            self.prompt_logprobs[sequence.id] = entries[len(entries) - (end - start) :]
            sequence.num_prompt_logprobs = end
