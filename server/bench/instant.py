"""The real server with a worker that computes nothing: what the API processes alone can push.

    python -m server.bench.instant API_PROCESSES STEP_MS

serves the bundled model's tokenizer on a free port until its input ends, and prints what `nexttoken serve` prints.
All is real but for the socket to the worker, whose one message a step takes the other end microseconds. A step lasts
STEP_MS milliseconds or, with 0, as long as the readers of the last one need where they are in this process.
"""

import asyncio
import sys
from itertools import cycle, islice
from pathlib import Path
from types import TracebackType
from typing import Self

from model.description import ModelInfo
from model.families.registry import config_from_directory
from server.child import exit_at_end_of_input
from server.engine.messages import (
    Abort,
    Finished,
    FromWorker,
    Lookup,
    Ready,
    Request,
    Started,
    Stats,
    StepResult,
    Tokens,
    ToWorker,
    WorkerConfig,
)
from server.serve import serve
from server.settings import Settings

MAX_STREAMS = 4096
# Of the words that are said in turn.
_NUM_WORDS = 512


class InstantWorker:
    """A worker's connection without a worker: each message asked for is a step, with a token for every sequence."""

    def __init__(self, config: WorkerConfig, step_s: float) -> None:
        self._step_s = step_s
        self._info = _model_info(config)
        self._words = cycle([0])
        self._has_work = asyncio.Event()
        self._num_left: dict[int, int] = {}
        """Tokens to come, by sequence."""
        self._new: list[Started] = []
        self._num_cached: dict[int, int] = {}
        """Answers to lookups."""
        self._is_ready = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def kill(self) -> None:
        """Nothing to end."""

    def close(self) -> None:
        """Nothing to end."""

    def send(self, message: ToWorker) -> None:
        """Take a message at once."""
        match message:
            case Tokens():
                self._words = cycle(_words(message.vocabulary.tokens))
            case Request():
                for choice in message.choices:
                    self._num_left[choice.sequence_id] = message.params.max_tokens - len(choice.emitted)
                    self._new.append(Started(choice.sequence_id, 0))
            case Abort():
                for sequence_id in message.sequence_ids:
                    self._num_left.pop(sequence_id, None)
            case Lookup():
                self._num_cached[message.lookup_id] = 0
        self._has_work.set()

    async def receive(self, timeout_s: float) -> FromWorker | None:
        """A step, when the last one is over; None if there's nothing to do for so long."""
        if not self._is_ready:
            self._is_ready = True
            return Ready(self._info)
        await asyncio.sleep(self._step_s)
        if not (self._num_left or self._num_cached):
            self._has_work.clear()
            try:
                await asyncio.wait_for(self._has_work.wait(), timeout_s)
            except TimeoutError:
                return None
        return self._step()

    def _step(self) -> StepResult:
        sequence_ids = [i for i, num_left in self._num_left.items() if num_left > 0]
        for sequence_id in sequence_ids:
            self._num_left[sequence_id] -= 1
        ended = [i for i, num_left in self._num_left.items() if num_left <= 0]
        for sequence_id in ended:
            del self._num_left[sequence_id]
        started, self._new = self._new, []
        num_cached, self._num_cached = self._num_cached, {}
        return StepResult(
            sequence_ids=sequence_ids,
            token_ids=list(islice(self._words, len(sequence_ids))),
            stats=Stats(len(self._num_left), 0, 0, 0, 0, 0),
            started=started,
            finished=[Finished(i, "length") for i in ended],
            num_cached=num_cached,
        )


def _words(tokens: list[bytes]) -> list[int]:
    """Tokens that are text by themselves, so that each makes a chunk."""
    return [i for i, token in enumerate(tokens) if token.isascii() and token[1:].isalpha()][:_NUM_WORDS]


def _model_info(config: WorkerConfig) -> ModelInfo:
    model = config_from_directory(Path(config.runner.model_dir))
    return ModelInfo(
        architecture=model.architecture,
        num_parameters=0,
        dtype="none",
        kv_cache_dtype="none",
        device="none",
        attention="no",
        kernels="instantly",
        vocab_size=model.vocab_size,
        max_model_len=model.max_model_len,
        max_num_seqs=config.runner.max_num_seqs,
        max_step_tokens=config.runner.max_num_seqs,
        block_size=config.runner.block_size,
        num_blocks=0,
        eos_token_ids=list(model.eos_token_ids),
        bos_token_id=model.bos_token_id,
        weights_bytes=0,
        kv_cache_bytes=0,
    )


if __name__ == "__main__":
    exit_at_end_of_input()
    num_api_processes, step_ms = map(int, sys.argv[1:])
    settings = Settings(port=0, max_num_seqs=MAX_STREAMS, api_processes=num_api_processes, log_level="warning")
    sys.exit(serve(settings, lambda config: InstantWorker(config, step_ms / 1000)))
