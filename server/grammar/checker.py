"""Tells whether a grammar can be used, without the risk of compiling it here."""

import asyncio
import hashlib
import os
import select
import subprocess
import time
import weakref
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import msgspec

from model.grammar import Grammar, Verdict, Vocabulary
from server.child import child_command
from server.errors import QueueFull
from server.grammar.frames import Answer, frame

MAX_COMPILE_S = 1.5
# Importing, and reading a large vocabulary, on a busy machine.
MAX_START_S = 60.0
# Processes that compile at once. One that takes its full time leaves the other to everybody else.
NUM_BUSY = 2
# One more waits: a grammar that ends its process makes nobody wait for the next one to start.
NUM_CHILDREN = NUM_BUSY + 1
MAX_WAITING = 64
# Of the children: behind everything that streams.
NICENESS = 5
# Verdicts that are remembered, of some hundred bytes each.
MAX_REMEMBERED = 10_000

TOO_LONG = Verdict(error=f"compiling it takes more than {MAX_COMPILE_S} s; make it smaller")
TOO_LARGE = Verdict(error="compiling it takes too much memory, or it refers to itself too deeply; make it smaller")


class GrammarChecker:
    """Compiles grammars in child processes, and remembers what came of it."""

    def __init__(self, vocabulary: Callable[[], Vocabulary]) -> None:
        """`vocabulary` is asked for each new child."""
        self._vocabulary = vocabulary
        self._idle: SimpleQueue[_Child | Exception] = SimpleQueue()
        self._threads = ThreadPoolExecutor(NUM_BUSY, "grammar-check")
        self._starter = ThreadPoolExecutor(1, "grammar-start")
        self._is_started = False
        """Whether the children were asked for, which the first grammar does."""
        self._num_waiting = 0
        self._verdicts: OrderedDict[bytes, Verdict] = OrderedDict()

    async def check(self, grammar: Grammar) -> Verdict:
        """What compiling it says. Raises QueueFull when too many grammars wait already."""
        key = _key(grammar)
        if (known := self._verdicts.get(key)) is not None:
            self._verdicts.move_to_end(key)
            return known
        if self._num_waiting >= MAX_WAITING:
            raise QueueFull(f"{self._num_waiting} new grammars wait to be compiled already")
        self._num_waiting += 1
        if not self._is_started:
            self._is_started = True
            for _ in range(NUM_CHILDREN):
                self._starter.submit(self._start_child)
        try:
            verdict = await asyncio.get_running_loop().run_in_executor(self._threads, self._compile, grammar)
        finally:
            self._num_waiting -= 1
        self.remember(grammar, verdict)
        return verdict

    @property
    def num_remembered(self) -> int:
        """Verdicts that need no compiling."""
        return len(self._verdicts)

    def remember(self, grammar: Grammar, verdict: Verdict) -> None:
        """Keep a verdict; that which was longest not asked for goes."""
        self._verdicts[_key(grammar)] = verdict
        while len(self._verdicts) > MAX_REMEMBERED:
            self._verdicts.popitem(last=False)

    def close(self) -> None:
        """End the children."""
        self._threads.shutdown(cancel_futures=True)
        self._starter.shutdown(cancel_futures=True)
        while not self._idle.empty():
            child = self._idle.get()
            if isinstance(child, _Child):
                child.end()

    def _compile(self, grammar: Grammar) -> Verdict:
        child = self._idle.get()
        if isinstance(child, Exception):
            self._starter.submit(self._start_child)
            raise child
        try:
            answer = child.ask(frame(grammar), MAX_COMPILE_S)
        except TimeoutError:
            verdict = TOO_LONG
        except (EOFError, OSError):
            verdict = TOO_LARGE
        else:
            verdict = answer.verdict
            if not answer.is_last:
                self._idle.put(child)
                return verdict
        child.end()
        self._starter.submit(self._start_child)
        return verdict

    def _start_child(self) -> None:
        """Add one to those that wait, or the reason why there is none for whoever waits for it."""
        try:
            self._idle.put(_Child(self._vocabulary()))
        except Exception as error:  # TimeoutError, OSError
            self._idle.put(error)


class _Child:
    """One process of `server.grammar.child`."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._process = subprocess.Popen(
            child_command("server.grammar.child"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # a stack that overflows says so there
        )
        # Here, for importing takes longer than most grammars.
        os.setpriority(os.PRIO_PROCESS, self._process.pid, NICENESS)
        self.end = weakref.finalize(self, _end, self._process)
        """End the process; when nobody holds this any more, and when the interpreter exits, that happens by itself."""
        self.ask(frame(vocabulary), MAX_START_S)

    def ask(self, question: bytes, timeout_s: float) -> Answer:
        """Its answer. Raises TimeoutError; EOFError or OSError if it died."""
        assert self._process.stdin is not None
        self._process.stdin.write(question)
        self._process.stdin.flush()
        deadline = time.monotonic() + timeout_s
        length = int.from_bytes(self._read(4, deadline), "little")
        return msgspec.msgpack.decode(self._read(length, deadline), type=Answer)

    def _read(self, num_bytes: int, deadline: float) -> bytes:
        assert self._process.stdout is not None
        pipe, data = self._process.stdout.fileno(), b""
        # Not select(), which takes no file descriptor from 1024 on.
        answer = select.poll()
        answer.register(pipe, select.POLLIN)
        while len(data) < num_bytes:
            if not answer.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise TimeoutError
            part = os.read(pipe, num_bytes - len(data))
            if not part:
                raise EOFError
            data += part
        return data


def _key(grammar: Grammar) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode(grammar)).digest()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    with process:  # closes the pipes, and waits
        pass
