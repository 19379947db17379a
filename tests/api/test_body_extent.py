"""A body of more values than a request has is told before it is parsed, whatever stands in its strings."""

import json
import sys
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.api import body_extent
from server.api.body_extent import MAX_STRUCTURES, MAX_VALUES, check_extent
from server.errors import PayloadTooLarge
from tests.api.serving import ask, refused, serve

STRINGS = st.text(st.sampled_from('"\\,:[{a'), max_size=6)
VALUES = st.recursive(
    st.integers(0, 9) | STRINGS,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(STRINGS, inner, max_size=5),
    max_leaves=20,
)


def count(value: Any) -> tuple[int, int]:
    """Commas, and what costs more than a number."""
    if isinstance(value, str):
        return 0, 1
    if not isinstance(value, list | dict):
        return 0, 0
    inner = [count(one) for one in value] if isinstance(value, list) else [count(one) for one in value.values()]
    # A name is a string and a colon.
    own = 1 + (2 * len(value) if isinstance(value, dict) else 0)
    return max(len(value) - 1, 0) + sum(a for a, _ in inner), own + sum(b for _, b in inner)


@settings(max_examples=200, deadline=None)
@given(VALUES, st.integers(0, 30), st.integers(1, 60), st.integers(2, 9))
def test_values_are_counted_outside_of_strings(value: Any, max_values: int, max_structures: int, piece: int) -> None:
    body = json.dumps(value).encode()
    num_values, num_structures = count(value)
    is_within = num_values <= max_values and num_structures + 1 <= max_structures
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body_extent, "MAX_VALUES", max_values)
        patch.setattr(body_extent, "MAX_STRUCTURES", max_structures)
        patch.setattr(body_extent, "_PIECE", piece)
        if is_within or len(body) <= max_structures:
            check_extent(body)
        else:
            with pytest.raises(PayloadTooLarge):
                check_extent(body)


@pytest.mark.parametrize(
    "inner",
    [b"1," * (MAX_VALUES + 1), b'"",' * MAX_STRUCTURES, b"[]," * MAX_STRUCTURES, b'{"a":1},' * (MAX_STRUCTURES // 3)],
)
def test_a_body_of_many_values_is_a_413(inner: bytes) -> None:
    body = b'{"prompt":[' + inner + b"1]}"
    answer = ask(serve(), "/v1/completions", body, **{"content-type": "application/json"})
    assert "more than 2097152 values" in refused(answer, 413)["message"]


@pytest.mark.parametrize("text", [",", "[:", '"', "\\", '\\"'])
def test_text_may_hold_what_it_likes(text: str) -> None:
    check_extent(json.dumps({"prompt": text * MAX_VALUES}).encode())


def test_a_string_of_escapes_takes_few_steps() -> None:
    body = json.dumps({"prompt": '"' * MAX_VALUES}).encode()
    steps = 0

    def count_lines(frame: FrameType, event: str, _: object) -> Any:
        nonlocal steps
        steps += event == "line"
        return count_lines

    sys.settrace(count_lines)
    try:
        check_extent(body)
    finally:
        sys.settrace(None)
    assert steps < 1000


@pytest.mark.parametrize("rest", [b"", b"a", b"\\", b'\\"', b"\\\\"])
def test_a_string_without_an_end_is_left_to_the_parser(rest: bytes) -> None:
    check_extent(b'["' + b'\\"' * (2 * MAX_STRUCTURES) + rest)


def test_the_largest_prompts_are_within() -> None:
    check_extent(json.dumps({"prompt": [[7] * 8192] * 256}).encode())
