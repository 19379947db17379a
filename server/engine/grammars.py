"""Compiles the grammars of requests beside the step loop."""

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from queue import SimpleQueue

import msgspec

from model.constraint import Compiler, Constraint, GrammarError
from model.grammar import Grammar, Vocabulary
from server.engine.messages import Request

# Two, so that one large grammar doesn't hold up all others.
NUM_THREADS = 2
# Compiling descends with the nesting of a grammar. The check at the door has less room than this, so whatever would
# overflow here has overflowed there, where it harms nobody.
STACK_BYTES = 64 * 2**20

# What compiled grammars may take, and what one is taken for: a small schema took 21 kB, a large one 70 bytes for each
# of its characters, and following them takes some more.
MAX_CACHE_BYTES = 64 * 2**20
_BYTES_EACH = 64 * 1024
_BYTES_PER_CHARACTER = 100


@dataclass(slots=True)
class _Waiting:
    request: Request
    grammar: Grammar
    outcome: Constraint | GrammarError | None = None
    aborted: set[int] = field(default_factory=set)


class Grammars:
    """The requests that wait for their grammar, and the grammars that were compiled before."""

    def __init__(self) -> None:
        self._compiler: Compiler | None = None
        self._tasks: SimpleQueue[_Waiting] = SimpleQueue()
        self._waiting: list[_Waiting] = []
        self._cache = ConstraintCache()

    @property
    def is_busy(self) -> bool:
        """Whether any request waits."""
        return bool(self._waiting)

    @property
    def has_ready(self) -> bool:
        """Whether any request need wait no longer."""
        return any(waiting.outcome is not None for waiting in self._waiting)

    def use(self, vocabulary: Vocabulary) -> None:
        """Compile for these tokens. Called once."""
        self._compiler = Compiler(vocabulary)
        before = threading.stack_size(STACK_BYTES)
        for number in range(NUM_THREADS):
            # Daemons, so that a grammar that takes long doesn't keep the process from ending.
            threading.Thread(target=self._work, args=(self._compiler,), name=f"grammar-{number}", daemon=True).start()
        threading.stack_size(before)

    def add(self, request: Request, grammar: Grammar) -> None:
        """Let a request wait for its grammar."""
        waiting = _Waiting(request, grammar, self._cache.find(grammar))
        self._waiting.append(waiting)
        if self._compiler is None:
            waiting.outcome = GrammarError("the texts of this model's tokens are not known")
        elif waiting.outcome is None:
            self._tasks.put(waiting)

    def abort(self, sequence_ids: Iterable[int]) -> None:
        """Forget these sequences, where their requests wait."""
        for waiting in self._waiting:
            waiting.aborted.update(sequence_ids)

    def take_ready(self) -> list[tuple[Request, Constraint | GrammarError]]:
        """Requests whose grammar is there, or can't be; of their choices, those that were not aborted."""
        ready, still_waiting = [], []
        for waiting in self._waiting:
            # Looked at once: the other thread may set it at any moment.
            outcome = waiting.outcome
            if outcome is None:
                still_waiting.append(waiting)
            else:
                ready.append((_remaining(waiting), outcome))
        self._waiting = still_waiting
        return ready

    def _work(self, compiler: Compiler) -> None:
        while True:
            waiting = self._tasks.get()
            constraint = self._cache.find(waiting.grammar)
            try:
                waiting.outcome = constraint or self._cache.keep(waiting.grammar, compiler.compile(waiting.grammar))
            except GrammarError as error:
                waiting.outcome = error
            except Exception as error:  # the request's end, and nobody else's
                waiting.outcome = GrammarError(f"compiling failed: {type(error).__name__}")


class ConstraintCache:
    """Compiled grammars, least recently used out. For several threads."""

    def __init__(self, max_bytes: int = MAX_CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._constraints: OrderedDict[Grammar, Constraint] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, grammar: Grammar) -> Constraint | None:
        """The compiled grammar, unless it was never kept, or met a limit of what it may hold."""
        with self._lock:
            constraint = self._constraints.get(grammar)
            if constraint is not None and constraint.is_spent:
                self._drop(grammar)
                return None
            if constraint is not None:
                self._constraints.move_to_end(grammar)
            return constraint

    def keep(self, grammar: Grammar, constraint: Constraint) -> Constraint:
        """Keep it, and give it back."""
        with self._lock:
            if grammar not in self._constraints:
                self._num_bytes += _size(grammar)
            self._constraints[grammar] = constraint
            while self._num_bytes > self._max_bytes:
                self._drop(next(iter(self._constraints)))
        return constraint

    def _drop(self, grammar: Grammar) -> None:
        del self._constraints[grammar]
        self._num_bytes -= _size(grammar)


def _size(grammar: Grammar) -> int:
    return _BYTES_EACH + _BYTES_PER_CHARACTER * len(grammar.text)


def _remaining(waiting: _Waiting) -> Request:
    request = waiting.request
    choices = [choice for choice in request.choices if choice.sequence_id not in waiting.aborted]
    return msgspec.structs.replace(request, choices=choices)
