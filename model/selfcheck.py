"""Whether a runner computes what it should: a few known texts, computed in every way that a server computes.

What is fast on a GPU (kernels, recorded steps, steps enqueued ahead) was written to give what plain torch gives, one
step after the other. Here that is proved at the start, on the card, the driver and the model that are there.
"""

import random
from collections.abc import Callable, Sequence

from model.batch import Batch, Join, Proposal, SamplingParams
from model.description import Check
from model.runner import ModelRunner

LENGTHS = (40, 17, 25)
LONG = 600
"""A first text that is long enough for attention to be split over programs (model/kernels/triton/README.md)."""
NUM_DECODED = 4
"""The last tokens of each text, which are computed one by one."""
DRAWN = (
    SamplingParams(max_tokens=NUM_DECODED, temperature=0.0),
    SamplingParams(max_tokens=NUM_DECODED, seed=1, top_k=50, top_p=0.9),
    SamplingParams(max_tokens=NUM_DECODED, seed=2),
)
MAX_MEAN_DIFFERENCE = {"float32": 1e-3, "bfloat16": 0.2, "float16": 0.2}
"""Between log-probabilities. In the bundled model rounding to bfloat16 makes 0.03, and values or queries of the wrong
tokens about 2."""


class Probe:
    """Texts for slots 0 and up and blocks 0 and up, none of which may be in use; no text for a very short context."""

    def __init__(
        self, *, vocab_size: int, max_model_len: int, max_num_seqs: int, block_size: int, first: int = LENGTHS[0]
    ) -> None:
        """`first`: tokens of the first text, if the context is three times as long."""
        rng, longest = random.Random(0), max_model_len // block_size // len(LENGTHS) * block_size
        wanted = (first, *LENGTHS[1:])[:max_num_seqs]
        lengths = [min(length, longest) for length in wanted if longest > 2 * NUM_DECODED]
        self._texts = [[rng.randrange(vocab_size) for _ in range(length)] for length in lengths]
        self._num_blocks_each = -(-max(lengths, default=0) // block_size)

    def logprobs(self, runner: ModelRunner) -> list[float]:
        """Of the texts' tokens: the beginnings computed in two chunks, the ends token by token, one of them alone."""
        batch = self._joined([SamplingParams(max_tokens=1, prompt_logprobs=0)] * len(self._texts), self._texts)
        ends = [len(text) - NUM_DECODED for text in self._texts]
        halves = [end // 2 for end in ends]
        found = _computed(runner, batch, [0] * len(ends), halves) + _computed(runner, Batch(), halves, ends)
        for num_rows in (len(ends), 1):
            for start in range(NUM_DECODED):
                starts = [end + start for end in ends[:num_rows]]
                found += _computed(runner, Batch(), starts, [start + 1 for start in starts])
        return found

    def draws(self, runner: ModelRunner, *, ahead: bool) -> list[list[int]]:
        """How the texts' beginnings go on, by DRAWN; `ahead`: all steps are told before results are read."""
        texts = [text[:-NUM_DECODED] for text in self._texts]
        batches = [self._joined(DRAWN[: len(texts)], texts)]
        _fill(batches[0], [0] * len(texts), [len(text) for text in texts], is_sampled=True)
        for step in range(NUM_DECODED - 1):
            starts = [len(text) + step for text in texts]
            batches.append(Batch())
            _fill(batches[-1], starts, [start + 1 for start in starts], is_sampled=True)
        if not ahead:
            return [runner.run(batch).token_ids for batch in batches]
        return [runner.read(results).token_ids for results in [runner.enqueue(batch) for batch in batches]]

    def guesses(self, runner: ModelRunner) -> list[list[int]]:
        """What the draft model says after the texts' beginnings, by DRAWN: together, and after one of them alone."""
        found: list[list[int]] = []
        for num_rows in (len(self._texts), 1):
            texts = [text[:-NUM_DECODED] for text in self._texts[:num_rows]]
            batch = self._joined(DRAWN[:num_rows], texts)
            _fill(batch, [0] * num_rows, [len(text) + NUM_DECODED for text in texts], is_sampled=True)
            batch.proposals = {row: Proposal(0, len(text), NUM_DECODED) for row, text in enumerate(texts)}
            results = runner.enqueue(batch)
            runner.read(results)
            found += [results.proposed[row].tolist() for row in range(num_rows)]
        return found

    @property
    def num_blocks(self) -> int:
        """How many blocks the texts take."""
        return self._num_blocks_each * len(self._texts)

    @property
    def is_empty(self) -> bool:
        """Whether the context is too short for any text."""
        return not self._texts

    def _joined(self, params: Sequence[SamplingParams], texts: list[list[int]]) -> Batch:
        """A batch in which the texts take slots and blocks, and without rows."""
        slots, each = range(len(texts)), self._num_blocks_each
        return Batch(
            joins=[Join(slot, text, len(text), 0, params[slot]) for slot, text in enumerate(texts)],
            block_slots=[slot for slot in slots for _ in range(each)],
            block_indexes=list(range(each)) * len(texts),
            block_ids=list(range(each * len(texts))),
        )


def agreement(part: str, dtype: str, expected: list[float], compute: Callable[[], list[float]]) -> Check:
    """Whether `compute` gives the expected log-probabilities but for rounding."""
    try:
        found = compute()
    except Exception as error:  # whatever a compiler or a driver may raise: what fails here is not used
        return Check(part, False, f"it failed: {one_line(error)}")
    differences = [abs(ours - theirs) for ours, theirs in zip(found, expected, strict=True)]
    mean = sum(differences) / max(len(differences), 1)
    is_equal = mean <= MAX_MEAN_DIFFERENCE[dtype]  # not so if it is NaN
    return Check(
        part, is_equal, f"mean difference of log-probabilities {mean:.2g}, greatest {max(differences, default=0):.2g}"
    )


def check_execution(
    runner: ModelRunner, probe: Probe, dtype: str, record: Callable[[], int], record_draft: Callable[[], int]
) -> list[Check]:
    """Prove recorded and overlapped steps against plain ones, and switch off in the runner what is not proved.

    `record` makes the recordings of the model, `record_draft` those of the draft model; both return the most rows that
    one has. Nothing is checked on a device that has neither. Slot and block numbers of the probe must not be in use.
    """
    if not runner.is_asynchronous or probe.is_empty:
        record()
        record_draft()
        return []
    checks = []
    expected = probe.logprobs(runner)
    if runner.can_record:
        num_rows = 0

        def recorded() -> list[float]:
            nonlocal num_rows
            num_rows = record()
            return probe.logprobs(runner)

        check = agreement("CUDA graphs", dtype, expected, recorded)
        if not check.is_used:
            runner.drop_graphs()
        checks.append(Check(check.part, check.is_used, f"decode steps of up to {num_rows} rows; {check.note}"))
    else:
        checks.append(Check("CUDA graphs", False, "the attention back end can't be recorded"))
    if runner.can_record_draft:
        checks.append(_recorded_guesses(runner, probe, record_draft))
    checks.append(_overlap(runner, probe))
    return checks


def one_line(error: Exception) -> str:
    """What a check's note says of a failure."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def _recorded_guesses(runner: ModelRunner, probe: Probe, record: Callable[[], int]) -> Check:
    part = "CUDA graphs of the draft model"
    try:
        expected = probe.guesses(runner)
        num_rows = record()
        found = probe.guesses(runner)
    except Exception as error:  # as above
        runner.drop_draft_graphs()
        return Check(part, False, f"it failed: {one_line(error)}")
    # Without the first of each text, which no recorded step gives.
    pairs = [
        pair for ours, theirs in zip(found, expected, strict=True) for pair in zip(ours[1:], theirs[1:], strict=True)
    ]
    num_equal = sum(ours == theirs for ours, theirs in pairs)
    # Rounding may change one, and so those after it; of guesses from wrong numbers hardly any would be equal.
    is_equal = 2 * num_equal >= len(pairs)
    if not is_equal:
        runner.drop_draft_graphs()
    return Check(part, is_equal, f"decode steps of up to {num_rows} rows; {num_equal} of {len(pairs)} guesses the same")


def _overlap(runner: ModelRunner, probe: Probe) -> Check:
    part = "overlapped steps"
    try:
        is_equal = probe.draws(runner, ahead=True) == probe.draws(runner, ahead=False)
    except Exception as error:  # as above
        runner.wait_for_each_step()
        return Check(part, False, f"it failed: {one_line(error)}")
    if not is_equal:
        runner.wait_for_each_step()
        return Check(part, False, "other tokens were drawn than one step after the other")
    return Check(part, True, "the same tokens as one step after the other")


def _computed(runner: ModelRunner, batch: Batch, starts: list[int], ends: list[int]) -> list[float]:
    """Compute these tokens of the texts. Returns the log-probabilities of those that follow them."""
    _fill(batch, starts, ends, is_sampled=False)
    listed = runner.run(batch).prompt_logprobs
    return [entry.chosen for row in sorted(listed) for entry in listed[row]]


def _fill(batch: Batch, starts: list[int], ends: list[int], *, is_sampled: bool) -> None:
    batch.slots, batch.num_computed = list(range(len(starts))), starts
    batch.num_new = [end - start for start, end in zip(starts, ends, strict=True)]
    batch.is_sampled = [is_sampled] * len(starts)
