"""Runs batches: columns to step tensors, through the transformer and the sampler, and back to the host."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.attention.base import AttentionBackend, StepTensors
from model.batch import Batch, Join, StepOutput
from model.decoder import Decoder
from model.graphs import DecodeGraphs, ladder
from model.results import Listed, Results, on_host
from model.sampler import Draws, Sampler, token_logprobs
from model.slot_matchers import SlotMatchers, take
from model.stream import Stream, stream_of, to_device, to_host
from model.transformer import Transformer

# T tokens in the step, R sampled rows, S slots, L positions of a slot, E hidden size, V vocabulary

# Logits of a prompt that wants its log-probabilities are made for this many positions at a time: at a vocabulary of
# 128k one piece is 64 MiB.
PROMPT_LOGPROB_ROWS = 128


@dataclass(slots=True, frozen=True)
class _Rows:
    """A batch's columns as arrays."""

    slots: NDArray[np.int64]
    num_computed: NDArray[np.int64]
    num_new: NDArray[np.int64]
    ends: NDArray[np.int64]
    """Where each row's tokens end among the step's tokens."""
    drawn: NDArray[np.int64]
    """The row of each draw: those that draw, once, and once more for each of their drafts."""
    num_after: NDArray[np.int64]
    """How many of its row's draws come after each."""


class ModelRunner:
    """Holds what the model knows of each slot: its tokens and block table here, its sampling parameters in the sampler.

    Drawn tokens go into the token table on the device, from which the next step reads them, so no step waits for the
    host to send back what the last one drew: on an asynchronous device a step can be enqueued before the last one's
    results are read.
    """

    def __init__(
        self,
        model: Transformer,
        backend: AttentionBackend[Any],
        sampler: Sampler,
        *,
        max_num_seqs: int,
        max_model_len: int,
        block_size: int,
        stream: Stream | None = None,
        draft: Decoder | None = None,
    ) -> None:
        """`stream` is the device's own unless another is given.

        `draft`: guesses what the model will say; has its vocabulary, and a cache with the blocks of its cache: same
        numbers, same tokens.
        """
        self._own = Decoder(model, backend)
        self._draft = draft
        self._sampler = sampler
        self._device = model.device
        self._stream = stream or stream_of(model.device)
        self._is_overlapped = self._stream.is_asynchronous
        self._max_num_seqs = max_num_seqs
        self._max_model_len = max_model_len
        self.block_size = block_size
        # On the host: the back end's plan and the write positions are computed there. The last slot is for padding.
        self._block_tables = np.zeros((max_num_seqs + 1, -(-max_model_len // block_size)), dtype=np.int32)
        # Room for one more: the token drawn at the limit is stored, though nothing follows it.
        self._tokens_SL = torch.zeros((max_num_seqs + 1, max_model_len + 1), dtype=torch.int32, device=self._device)
        self._token_list = self._tokens_SL.view(-1)
        self._joins: dict[int, Join] = {}
        self._matchers = SlotMatchers(model.config.vocab_size)

    @property
    def is_asynchronous(self) -> bool:
        """Whether `enqueue` comes back before the device has computed the step."""
        return self._is_overlapped

    def wait_for_each_step(self) -> None:
        """Let nobody enqueue a step before the last one's results are read."""
        self._is_overlapped = False

    def drop_graphs(self) -> None:
        """Compute decode steps anew, not from recordings."""
        self._own.graphs = DecodeGraphs()

    def drop_draft_graphs(self) -> None:
        """The same for the draft model."""
        if self._draft is not None:
            self._draft.graphs = DecodeGraphs()

    @property
    def can_record(self) -> bool:
        """Whether decode steps can be recorded."""
        return self._own.backend.can_record

    @property
    def can_record_draft(self) -> bool:
        """Whether there is a draft model whose decode steps can be recorded."""
        return self._draft is not None and self._draft.backend.can_record

    def record_graphs(self, padding_block: int, max_bytes: int, progress: Callable[[float], None]) -> int:
        """Record decode steps, where the back end can be recorded, in about `max_bytes` of memory.

        Rows of padding write to `padding_block`, which no sequence may have. Returns the most rows of a recorded step.
        """
        return self._record(self._own, padding_block, max_bytes, progress)

    def record_draft_graphs(self, padding_block: int, max_bytes: int, progress: Callable[[float], None]) -> int:
        """The same for the draft model, if there is one."""
        return self._record(self._draft, padding_block, max_bytes, progress)

    @torch.inference_mode()
    def _record(
        self, decoder: Decoder | None, padding_block: int, max_bytes: int, progress: Callable[[float], None]
    ) -> int:
        if decoder is None or not decoder.backend.can_record:
            return 0
        self._block_tables[self._max_num_seqs] = padding_block
        decoder.graphs.record(
            self._stream,
            partial(self._longest_decode, decoder.backend),
            decoder.compute,
            sizes=ladder(self._max_num_seqs),
            max_bytes=max_bytes,
            progress=progress,
        )
        return decoder.graphs.max_rows

    def run(self, batch: Batch) -> StepOutput:
        """Compute the batch's tokens, draw a next token for the rows that reach their end."""
        return self.read(self.enqueue(batch))

    def read(self, results: Results) -> StepOutput:
        """Wait for a step's results. To be called in the order of `enqueue`, once for each step."""
        results.wait()
        output = results.output()
        take(results.matchers, output)
        return output

    @torch.inference_mode()
    def enqueue(self, batch: Batch) -> Results:
        """Tell the device to compute a batch, after all that it was told before. Waits for nothing."""
        self._take_in(batch)
        rows = _rows(batch)
        self._write_drafts(batch)
        proposed = self._propose(batch) if batch.proposals else {}
        params = [self._joins[slot].params for slot in batch.slots]
        hidden_TE = self._hidden(self._own, rows.slots, rows.num_computed, rows.num_new)
        draws = self._sample(hidden_TE, rows) if rows.drawn.size else None
        prompt_logprobs = {
            row: list(self._prompt_logprobs(hidden_TE, rows, row))
            for row, p in enumerate(params)
            if p.prompt_logprobs is not None
        }
        return Results(
            num_top=[p.logprobs for p in params],
            drawn=rows.drawn.tolist(),
            draws=None if draws is None else on_host(draws),
            drafts=batch.drafts,
            proposed=proposed,
            prompt_logprobs=prompt_logprobs,
            matchers=self._matchers.of(batch.slots),
            wait=self._stream.mark(),
        )

    def _take_in(self, batch: Batch) -> None:
        """Write what is new of slots and blocks into the tables."""
        if batch.joins:
            self._joins |= {join.slot: join for join in batch.joins}
            places = [self._places(np.int64(join.slot), np.arange(len(join.token_ids))) for join in batch.joins]
            self._write_tokens(places, [join.token_ids for join in batch.joins])
        self._sampler.join(batch.joins)
        self._matchers.join(batch.joins)
        self._block_tables[batch.block_slots, batch.block_indexes] = batch.block_ids

    def _write_drafts(self, batch: Batch) -> None:
        """Put guesses where the next tokens will stand."""
        if not batch.drafts:
            return
        places = [
            self._places(
                np.int64(batch.slots[row]), batch.num_computed[row] + batch.num_new[row] + np.arange(-len(draft), 0)
            )
            for row, draft in batch.drafts.items()
        ]
        self._write_tokens(places, list(batch.drafts.values()))

    def _propose(self, batch: Batch) -> dict[int, Tensor]:
        """Let the draft model compute what it lacks and put its guesses where the next tokens will stand.

        They are drawn by the parameters and the random numbers of the draws that will be held against them: so they
        agree as often as can be. Returns copies on the host, by row.
        """
        assert self._draft is not None, "only a runner with a draft model is asked for proposals"
        slots = np.array([batch.slots[row] for row in batch.proposals], dtype=np.int64)
        columns = [(proposal.start, proposal.num_new, proposal.num_tokens) for proposal in batch.proposals.values()]
        start, num_new, num_guessed = np.array(columns, dtype=np.int64).T
        known, last = start + num_new, np.cumsum(num_new) - 1
        hidden_TE = self._hidden(self._draft, slots, start, num_new)
        for ahead in range(num_guessed.max()):
            goes_on = num_guessed > ahead
            slots_G, num_tokens_G = slots[goes_on], known[goes_on] + ahead
            last_G = last[goes_on] if ahead == 0 else np.arange(len(slots_G))
            if ahead > 0:
                hidden_TE = self._hidden(self._draft, slots_G, num_tokens_G - 1, np.ones_like(slots_G))
            self._draw(self._draft.model, hidden_TE, last_G, slots_G, num_tokens_G)
        starts = np.cumsum(num_guessed) - num_guessed
        places = np.repeat(self._places(slots, known) - starts, num_guessed) + np.arange(num_guessed.sum())
        guesses = to_host(self._token_list.index_select(0, self._to_device(places)))
        return dict(zip(batch.proposals, guesses.split_with_sizes(num_guessed.tolist()), strict=True))

    def _write_tokens(self, places: list[NDArray[np.int64]], token_ids: list[list[int]]) -> None:
        places_N, token_ids_N = self._to_device(np.stack((np.concatenate(places), np.concatenate(token_ids))))
        self._token_list.index_copy_(0, places_N, token_ids_N.int())

    def _hidden(
        self,
        decoder: Decoder,
        slots: NDArray[np.int64],
        num_computed: NDArray[np.int64],
        num_new: NDArray[np.int64],
    ) -> Tensor:
        """The hidden states of the rows' tokens, and of padding after them where a recorded step is played.

        They hold until the next recorded step.
        """
        num_padded = decoder.graphs.num_rows_for(len(slots))
        if num_padded is None or (num_new != 1).any():
            return decoder.compute(self._step_tensors(slots, num_computed, num_new, decoder.backend))
        num_more = num_padded - len(slots)
        slots = np.concatenate((slots, np.full(num_more, self._max_num_seqs)))
        num_computed = np.concatenate((num_computed, np.zeros(num_more, dtype=np.int64)))
        return decoder.graphs.play(self._step_tensors(slots, num_computed, np.ones_like(slots), decoder.backend))

    def _longest_decode(self, backend: AttentionBackend[Any], num_rows: int) -> StepTensors[Any]:
        """A decode step of padding at the end of the longest context."""
        ones = np.ones(num_rows, dtype=np.int64)
        return self._step_tensors(ones * self._max_num_seqs, ones * (self._max_model_len - 1), ones, backend)

    def _step_tensors(
        self,
        slots: NDArray[np.int64],
        num_computed: NDArray[np.int64],
        num_new: NDArray[np.int64],
        backend: AttentionBackend[Any],
    ) -> StepTensors[Any]:
        if (num_new == 1).all():
            slots_T, positions_T = slots, num_computed
        else:
            starts = np.cumsum(num_new) - num_new
            slots_T = np.repeat(slots, num_new)
            positions_T = np.arange(len(slots_T)) + np.repeat(num_computed - starts, num_new)
        blocks_T = self._block_tables[slots_T, positions_T // self.block_size].astype(np.int64)
        write_T = blocks_T * self.block_size + positions_T % self.block_size
        read_T = self._places(slots_T, positions_T)
        read, positions, write = self._to_device(np.array((read_T, positions_T, write_T)))
        return StepTensors(
            token_ids_T=self._token_list.index_select(0, read).long(),
            positions_T=positions,
            write_T=write,
            plan=backend.plan(slots, num_computed, num_new, self._block_tables),
        )

    def _sample(self, hidden_TE: Tensor, rows: _Rows) -> Draws:
        slots = rows.slots[rows.drawn]
        num_tokens = (rows.num_computed + rows.num_new)[rows.drawn] - rows.num_after
        return self._draw(self._own.model, hidden_TE, rows.ends[rows.drawn] - 1 - rows.num_after, slots, num_tokens)

    def _draw(
        self,
        model: Transformer,
        hidden_TE: Tensor,
        last: NDArray[np.int64],
        slots: NDArray[np.int64],
        num_tokens: NDArray[np.int64],
    ) -> Draws:
        """Draw the token that follows the `num_tokens` tokens of each slot, and put it after them.

        `last`: where in `hidden_TE` the last of these tokens is, strictly ascending.
        """
        last_R, next_R = self._to_device(np.array((last, self._places(slots, num_tokens))))
        are_first_rows = last[-1] == len(last) - 1
        hidden_RE = hidden_TE.narrow(0, 0, len(last)) if are_first_rows else hidden_TE.index_select(0, last_R)
        logits_RV = model.logits(hidden_RE)
        # Computed while the device, which was only told what to do, computes the logits.
        masks = self._matchers.masks(slots.tolist())
        draws = self._sampler.sample(logits_RV, slots.tolist(), num_tokens.tolist(), self._tokens_SL, masks)
        # A step may be on its way that reads these before the host knows of a failed draw: it must find a token.
        self._token_list.index_copy_(0, next_R, draws.token_ids_R.clamp(min=0).int())
        return draws

    def _prompt_logprobs(self, hidden_TE: Tensor, rows: _Rows, row: int) -> Iterator[Listed]:
        """Log-probabilities of the prompt tokens that follow this row's tokens."""
        join = self._joins[int(rows.slots[row])]
        first = int(rows.num_computed[row])
        last = min(first + int(rows.num_new[row]), join.num_prompt - 1)
        offset = int(rows.ends[row] - rows.num_new[row]) - first
        for start in range(first, last, PROMPT_LOGPROB_ROWS):
            stop = min(start + PROMPT_LOGPROB_ROWS, last)
            logits_RV = self._own.model.logits(hidden_TE.narrow(0, offset + start, stop - start))
            chosen_R = self._tokens_SL.select(0, join.slot).narrow(0, start + 1, stop - start).long()
            chosen, top_ids, top = token_logprobs(logits_RV, chosen_R, join.params.prompt_logprobs or 0)
            yield to_host(chosen), to_host(top_ids), to_host(top)

    def _places(self, slots: NDArray[np.int64] | np.int64, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where these slots have the tokens of these positions, in the table read as one list."""
        return slots * self._tokens_SL.shape[1] + positions

    def _to_device(self, column: NDArray[np.int64]) -> Tensor:
        return to_device(column, self._device)


def _rows(batch: Batch) -> _Rows:
    num_new = np.array(batch.num_new, dtype=np.int64)
    drawn = np.flatnonzero(batch.is_sampled)
    num_after = np.zeros_like(drawn)
    if batch.drafts or batch.proposals:
        num_draws = np.array(batch.is_sampled, dtype=np.int64)
        for row, draft in batch.drafts.items():
            num_draws[row] += len(draft)
        for row, proposal in batch.proposals.items():
            num_draws[row] += proposal.num_tokens
        drawn = np.repeat(np.arange(len(num_draws)), num_draws)
        num_after = np.repeat(np.cumsum(num_draws), num_draws) - np.arange(len(drawn)) - 1
    return _Rows(
        slots=np.array(batch.slots, dtype=np.int64),
        num_computed=np.array(batch.num_computed, dtype=np.int64),
        num_new=num_new,
        ends=np.cumsum(num_new),
        drawn=drawn,
        num_after=num_after,
    )
