"""A connection whose worker lives in this process: the real engine over the fake runner, which dies when told to."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Self

from model.description import ModelInfo
from server.engine.connection import WorkerDied
from server.engine.engine import Engine
from server.engine.messages import Abort, Failed, FromWorker, Lookup, Ready, Request, StepResult, ToWorker
from server.engine.scheduler import SchedulerLimits
from tests.sim.fake_runner import FakeRunner

MODEL = ModelInfo(
    architecture="Fake",
    num_parameters=1,
    dtype="float32",
    device="cpu",
    attention="fake",
    vocab_size=50,
    max_model_len=200,
    max_num_seqs=8,
    max_step_tokens=32,
    block_size=4,
    kv_cache_dtype="float32",
    num_blocks=400,
    eos_token_ids=[],
    bos_token_id=None,
    weights_bytes=1,
    kv_cache_bytes=1,
)

Fault = Callable[[StepResult], bool]
"""Told each step's result before it is sent; true kills the worker instead."""


def never(step: StepResult) -> bool:
    return False


def after_steps(count: int) -> Fault:
    steps = iter(range(count))
    return lambda step: next(steps, None) is None


class FakeConnection:
    """Does one step whenever the client asks for the next message."""

    def __init__(self, fault: Fault = never, *, failure: str | None = None, is_stuck: bool = False) -> None:
        self.requests: list[Request] = []
        self.is_killed = False
        self.num_lookups = 0
        self._fault = fault
        self._messages: list[FromWorker] = [Failed(failure) if failure else Ready(MODEL)]
        self._is_stuck = is_stuck
        limits = SchedulerLimits(MODEL.max_num_seqs, MODEL.max_step_tokens, MODEL.num_blocks, MODEL.block_size)
        runner = FakeRunner(MODEL.block_size, MODEL.max_step_tokens, MODEL.max_num_seqs)
        self.engine = Engine(runner, limits, MODEL.max_model_len, frozenset())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *details: object) -> None:
        pass

    def kill(self) -> None:
        self.is_killed = True

    def send(self, message: ToWorker) -> None:
        match message:
            case Request():
                self.requests.append(message)
                self.engine.add(message)
            case Abort():
                self.engine.abort(message.sequence_ids)
            case Lookup():
                self.num_lookups += 1
                self.engine.look_up(message)

    async def receive(self, timeout_s: float) -> FromWorker | None:
        await asyncio.sleep(0.001)
        if self._messages:
            return self._messages.pop()
        if self._is_stuck or not self.engine.has_work:
            return None
        step = self.engine.step()
        if self._fault(step):
            raise WorkerDied("killed by signal 9")
        return step


def in_turn(connections: Iterable[FakeConnection]) -> Callable[[], Any]:
    """What a client calls for each new worker."""
    iterator = iter(connections)
    return lambda: next(iterator)
