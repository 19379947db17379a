"""What a step computed, on its way to the host."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from model.batch import NOT_SAMPLED, StepOutput, TokenLogprobs
from model.constraint import Matcher
from model.sampler import Draws
from model.stream import to_host

# R sampled rows, K most likely tokens listed

Listed = tuple[Tensor, Tensor, Tensor]
"""What `token_logprobs` gives."""


@dataclass(slots=True, frozen=True)
class Results:
    """What a step computed: copies on the host, which hold once `wait` came back."""

    wait: Callable[[], None]
    num_top: list[int | None]
    """By row of the batch: how many of the most likely tokens its sequence wants listed beside a drawn one."""
    drawn: list[int]
    """The row of each of `draws`."""
    draws: Draws | None
    drafts: dict[int, list[int]]
    """By row: the guesses that its draws are held against."""
    proposed: dict[int, Tensor]
    """The same, of those that the draft model made."""
    prompt_logprobs: dict[int, list[Listed]]
    """By row, in pieces."""
    matchers: dict[int, Matcher]
    """By row: those that go on by the drawn tokens."""

    def output(self) -> StepOutput:
        """What became of the rows. To be asked after `wait`."""
        output = StepOutput(token_ids=[NOT_SAMPLED] * len(self.num_top))
        if self.draws is not None:
            drafts = self.drafts | {row: drafts.tolist() for row, drafts in self.proposed.items()}
            drawn: dict[int, list[int]] = {}
            for row, token_id in zip(self.drawn, self.draws.token_ids_R.tolist(), strict=True):
                drawn.setdefault(row, []).append(token_id)
            for row, token_ids in drawn.items():
                output.token_ids[row] = token_ids[0]
                if drafts.get(row):
                    output.accepted[row] = _accepted(token_ids, drafts[row])
            self._list_draws(self.draws, output)
        for row, pieces in self.prompt_logprobs.items():
            if pieces:
                output.prompt_logprobs[row] = [entry for piece in pieces for entry in _entries(*piece)]
        return output

    def _list_draws(self, draws: Draws, output: StepOutput) -> None:
        if draws.chosen_logprob_R is None or draws.top_ids_RK is None or draws.top_RK is None:
            return
        entries = _entries(draws.chosen_logprob_R, draws.top_ids_RK, draws.top_RK)
        for row, entry in zip(self.drawn, entries, strict=True):
            num_top = self.num_top[row]
            if num_top is not None:
                output.logprobs[row] = TokenLogprobs(entry.chosen, entry.top_ids[:num_top], entry.top[:num_top])


def on_host(draws: Draws) -> Draws:
    """Copies that hold once the device has done all that it was told by now."""
    listed = (draws.chosen_logprob_R, draws.top_ids_RK, draws.top_RK)
    return Draws(to_host(draws.token_ids_R), *(None if part is None else to_host(part) for part in listed))


def _accepted(token_ids: list[int], draft: list[int]) -> list[int]:
    """The draws after the first that follow right drafts: a wrong one makes all that was computed after it void."""
    num_right = next(
        (i for i, (token, guess) in enumerate(zip(token_ids, draft, strict=False)) if token != guess), len(draft)
    )
    return [token for token in token_ids[1 : num_right + 1] if token >= 0]


def _entries(chosen_R: Tensor, top_ids_RK: Tensor, top_RK: Tensor) -> list[TokenLogprobs]:
    columns = zip(chosen_R.tolist(), top_ids_RK.tolist(), top_RK.tolist(), strict=True)
    return [TokenLogprobs(chosen, top_ids, top) for chosen, top_ids, top in columns]
