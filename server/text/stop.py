"""Finds stop strings in streamed text and holds back what may become one."""

from collections import deque
from collections.abc import Sequence


class StopMatcher:
    """Cuts one choice's text at the first of its stop strings.

    The first is the one that is complete first, whatever pieces the text comes in; of two that end together it is the
    longer. The search is an automaton over all stop strings at once (Aho and Corasick 1975), so its cost for each
    character doesn't depend on how many there are, and its depth is just how much text has to be held back.
    """

    def __init__(self, stops: Sequence[str], include: bool = False) -> None:
        """`stops` are non-empty. With `include` the text that is sent ends with the stop string, else before it."""
        self._root = self._state = _automaton(stops)
        self._include = include
        self._held = ""
        self._found: str | None = None

    def push(self, text: str, may_stop: bool = True) -> tuple[str, str | None]:
        """Takes the next piece of text; returns what may be sent now, and the stop string if one is complete.

        After a stop string nothing more is sent. Without `may_stop`, for text before `min_tokens`, a complete stop
        string is text like any other.
        """
        if not self._root.next:
            return text, None
        if self._found is not None:
            return "", self._found
        held, self._held = self._held + text, ""
        for i, character in enumerate(text):
            self._step(character)
            found = self._state.stop
            if found is None:
                continue
            if may_stop:
                self._found = found
                end = len(held) - len(text) + i + 1
                return held[: end if self._include else end - len(found)], found
            if not self._state.next:
                self._state = self._state.fall_back or self._root
        safe = len(held) - self._state.depth
        self._held = held[safe:]
        return held[:safe], None

    def flush(self) -> str:
        """The text still held back, for a sequence that ended in another way than by a stop string."""
        held, self._held, self._state = self._held, "", self._root
        return held

    def _step(self, character: str) -> None:
        state: _State | None = self._state
        while state is not None and character not in state.next:
            state = state.fall_back
        self._state = state.next[character] if state is not None else self._root


class _State:
    """A beginning of at least one stop string."""

    __slots__ = ("depth", "fall_back", "next", "stop")

    def __init__(self, depth: int) -> None:
        self.depth = depth
        self.next: dict[str, _State] = {}
        self.fall_back: _State | None = None
        """The longest proper ending of this text that is a beginning too; None at the root."""
        self.stop: str | None = None
        """The longest stop string that this text ends with."""


def _automaton(stops: Sequence[str]) -> _State:
    root = _State(0)
    for stop in stops:
        state = root
        for character in stop:
            state = state.next.setdefault(character, _State(state.depth + 1))
        state.stop = stop
    queue = deque([root])
    while queue:
        parent = queue.popleft()
        for character, state in parent.next.items():
            fall_back = parent.fall_back
            while fall_back is not None and character not in fall_back.next:
                fall_back = fall_back.fall_back
            state.fall_back = fall_back.next[character] if fall_back is not None else root
            state.stop = state.stop or state.fall_back.stop
            queue.append(state)
    return root
