"""Steps of sequences that are there to be timed."""

from dataclasses import dataclass

from model.batch import Batch, Join, SamplingParams
from model.description import ModelInfo
from model.runner import ModelRunner

DECODE_STEPS = 32
_PARAMS = SamplingParams(max_tokens=DECODE_STEPS, temperature=0, ignore_eos=True)


@dataclass(frozen=True, slots=True)
class Case:
    """So many sequences with so long a context."""

    batch: int
    context: int


class Steps:
    """The steps of one case."""

    def __init__(self, runner: ModelRunner, info: ModelInfo, case: Case) -> None:
        self._runner = runner
        self._case = case
        self._chunk = info.max_step_tokens
        self._num_blocks = -(-(case.context + DECODE_STEPS) // info.block_size)
        self._num_decoded = 0

    def prefill(self, slot: int) -> None:
        """Compute one sequence's prompt, in as many steps as a server without other work takes."""
        context = self._case.context
        for start in range(0, context, self._chunk):
            count = min(self._chunk, context - start)
            batch = Batch([slot], [start], [count], [start + count == context])
            if start == 0:
                # Each has its own tokens and blocks.
                token_ids = [(slot * 7919 + i * 31) % 251 for i in range(context)]
                batch.joins = [Join(slot, token_ids, context, 0, _PARAMS)]
                batch.block_slots = [slot] * self._num_blocks
                batch.block_indexes = list(range(self._num_blocks))
                batch.block_ids = [slot * self._num_blocks + i for i in range(self._num_blocks)]
            self._runner.run(batch)

    def decode(self) -> None:
        """The next token of every sequence."""
        num_seqs = self._case.batch
        computed = self._case.context + self._num_decoded
        self._runner.run(Batch(list(range(num_seqs)), [computed] * num_seqs, [1] * num_seqs, [True] * num_seqs))
        self._num_decoded += 1
