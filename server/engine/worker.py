"""Main of the worker process: receive, step, send.

    python -m server.engine.worker ADDRESS CONFIG

ADDRESS is the client's ZeroMQ endpoint, CONFIG a WorkerConfig as JSON. The process ends when its standard input does,
which is when its parent closes it or goes away.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Event
from typing import Any

import msgspec
import zmq

from model.build import build_runner
from model.description import ModelInfo
from model.errors import ModelError
from model.families.registry import config_from_directory
from model.runner import ModelRunner
from model.speed.decode import decode_speed
from server.child import end_with_parent
from server.engine.drafting import UNKNOWN_COSTS
from server.engine.engine import Engine
from server.engine.messages import (
    Abort,
    Failed,
    FromWorker,
    Loading,
    Lookup,
    Ready,
    Request,
    Tokens,
    ToWorker,
    WorkerConfig,
)
from server.engine.scheduler import SchedulerLimits
from server.engine.step_costs import measure_draft_costs, measure_prompt_costs, measure_step_costs

# While nothing runs, how often to look whether a grammar is ready.
COMPILE_POLL_MS = 2


class Socket:
    """Messages to and from the client."""

    def __init__(self, address: str) -> None:
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        # Unlimited queues: the client bounds what it sends by the number of requests it admits.
        self._socket.set_hwm(0)
        self._socket.connect(address)
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[ToWorker] = msgspec.msgpack.Decoder(ToWorker)

    def send(self, message: FromWorker) -> None:
        """Queue a message for the client."""
        self._socket.send(self._encoder.encode(message))

    def receive(self, *, timeout_ms: int | None) -> list[ToWorker]:
        """All messages that are there; if there is none, those that come within the time (None: whenever that is)."""
        messages: list[ToWorker] = []
        if timeout_ms != 0:
            self._socket.poll(timeout_ms)
        while True:
            try:
                data = self._socket.recv(zmq.NOBLOCK)
                messages.append(self._decoder.decode(data))
            except zmq.Again:
                return messages
            except msgspec.MsgspecError as error:
                print(f"worker: dropped a message that is none of ours: {error}", file=sys.stderr, flush=True)


def main() -> None:
    """Load the model, then serve until the parent goes away."""
    end_with_parent()
    socket, config = Socket(sys.argv[1]), msgspec.json.decode(sys.argv[2], type=WorkerConfig)
    try:
        report = _reporter(socket)
        runner, model = build_runner(config.runner, report)
    except ModelError as error:
        socket.send(Failed(" ".join(str(error).split())))
        Event().wait()  # until the client has read why, and closes our input
        return
    if runner.is_asynchronous:
        model = msgspec.structs.replace(model, decode_mbu=_decode_mbu(config, runner, model))
    report("measuring steps", 0.0)
    limits = _limits(config, runner, model)
    engine = Engine(runner, limits, model.max_model_len, frozenset(model.eos_token_ids))
    socket.send(Ready(model))
    serve(socket, engine)


def serve(socket: Socket, engine: Engine[Any]) -> None:
    """Step while there's work; else sleep until a message comes."""
    while True:
        for message in socket.receive(timeout_ms=_patience_ms(engine)):
            match message:
                case Tokens():
                    engine.use(message.vocabulary)
                case Request():
                    engine.add(message)
                case Abort():
                    engine.abort(message.sequence_ids)
                case Lookup():
                    engine.look_up(message)
        if engine.is_compiling and not engine.has_work:
            continue
        # Also when nothing is left to do, as after the last abort: the stats tell the client that blocks are free.
        began = time.monotonic()
        step = engine.step()
        socket.send(msgspec.structs.replace(step, duration_s=time.monotonic() - began))


def _patience_ms(engine: Engine[Any]) -> int | None:
    """How long to wait for messages before the next step."""
    if engine.has_work:
        return 0
    return COMPILE_POLL_MS if engine.is_compiling else None


def _decode_mbu(config: WorkerConfig, runner: ModelRunner, model: ModelInfo) -> float | None:
    speed = decode_speed(runner, model, config_from_directory(Path(config.runner.model_dir)), num_threads=1)
    return None if speed is None else speed.mbu


def _limits(config: WorkerConfig, runner: ModelRunner, model: ModelInfo) -> SchedulerLimits:
    costs, draft_costs = UNKNOWN_COSTS, None
    if config.speculation:
        costs = measure_step_costs(runner, max_model_len=model.max_model_len, block_size=model.block_size)
    if config.speculation and model.draft is not None:
        draft_costs = measure_draft_costs(runner, max_model_len=model.max_model_len, block_size=model.block_size)
    return SchedulerLimits(
        max_num_seqs=model.max_num_seqs,
        max_step_tokens=model.max_step_tokens,
        num_blocks=model.num_blocks,
        block_size=model.block_size,
        prefix_caching=config.prefix_caching,
        step_costs=costs,
        draft_costs=draft_costs,
        prompt_costs=measure_prompt_costs(
            runner,
            max_model_len=model.max_model_len,
            max_step_tokens=model.max_step_tokens,
            num_blocks=model.num_blocks,
            block_size=model.block_size,
        ),
    )


def _reporter(socket: Socket) -> Callable[[str, float], None]:
    """Passes progress on: each phase, and each percent of it, once."""
    last: tuple[str, int] = ("", 0)

    def report(phase: str, fraction: float) -> None:
        nonlocal last
        if (phase, int(fraction * 100)) != last:
            last = (phase, int(fraction * 100))
            socket.send(Loading(phase, fraction))

    return report


if __name__ == "__main__":
    main()
