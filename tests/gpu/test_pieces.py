"""How a step's attention is cut, without any tensor."""

from collections import Counter

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from model.attention.pieces import MAX_SPLIT_TOKENS, MAX_SPLITS, StepPieces, Tiling, cut

rows_of_a_step = st.lists(st.tuples(st.integers(0, 900), st.integers(1, 40)), min_size=1, max_size=4)
tilings = st.builds(
    Tiling,
    block_size=st.sampled_from((4, 16)),
    window=st.sampled_from((None, 1, 33, 700)),
    split_tokens=st.integers(1, 16),
    split_size=st.sampled_from((16, 64)),
    tile_tokens=st.integers(1, 20),
)


def cut_rows(tiling: Tiling, rows: list[tuple[int, int]]) -> StepPieces:
    num_computed, num_new = np.array(rows).T
    tables = np.arange(len(rows) * 2500, dtype=np.int32).reshape(len(rows), -1)
    return cut(tiling, np.arange(len(rows))[::-1], num_computed, num_new, tables)


def keys_seen(tiling: Tiling, pieces: StepPieces) -> Counter[tuple[int, int]]:
    """How often each token of the step meets each position of its sequence."""
    seen: Counter[tuple[int, int]] = Counter()
    for token, num_tokens, position, _, first_key, end_key, *_ in (*pieces.splits_W8, *pieces.tiles_W8):
        for i in range(num_tokens):
            first = first_key if tiling.window is None else max(first_key, position + i + 1 - tiling.window)
            seen.update((token + i, key) for key in range(first, min(end_key, position + i + 1)))
    return seen


@settings(max_examples=40, deadline=None)
@given(tiling=tilings, rows=rows_of_a_step)
def test_every_token_meets_every_key_in_its_sight_once(tiling, rows):
    expected: Counter[tuple[int, int]] = Counter()
    token = 0
    for num_computed, num_new in rows:
        for position in range(num_computed, num_computed + num_new):
            first = 0 if tiling.window is None else max(0, position + 1 - tiling.window)
            expected.update((token, key) for key in range(first, position + 1))
            token += 1
    assert keys_seen(tiling, cut_rows(tiling, rows)) == expected


@settings(max_examples=40, deadline=None)
@given(tiling=tilings, rows=rows_of_a_step)
def test_partial_results_are_written_once_and_read_by_their_token(tiling, rows):
    pieces = cut_rows(tiling, rows)
    written = [
        (first_partial + i * stride, token + i)
        for token, num_tokens, *_, first_partial, stride in pieces.splits_W8
        for i in range(num_tokens)
    ]
    read = [(first + i, token) for token, first, count, _ in pieces.merges_T4 for i in range(count)]
    assert sorted(written) == sorted(read)
    assert sorted(partial for partial, _ in read) == list(range(len(read)))
    assert len(read) <= pieces.max_partials
    assert len(pieces.splits_W8) <= pieces.max_splits


@settings(max_examples=40, deadline=None)
@given(tiling=tilings, rows=rows_of_a_step)
def test_a_rows_partial_results_are_bounded_whatever_its_length(tiling, rows):
    num_split_rows = sum(num_new <= MAX_SPLIT_TOKENS for _, num_new in rows)
    pieces = cut_rows(tiling, rows)
    assert pieces.max_partials <= MAX_SPLITS * num_split_rows
    assert (pieces.merges_T4[:, 2] <= MAX_SPLITS).all()


@settings(max_examples=40, deadline=None)
@given(tiling=tilings, rows=st.lists(st.integers(0, 3000), min_size=1, max_size=5), longest=st.integers(3000, 9000))
def test_as_many_rows_of_the_longest_context_have_room_for_any(tiling, rows, longest):
    pieces = cut_rows(tiling, [(num_computed, 1) for num_computed in rows])
    largest = cut_rows(tiling, [(longest, 1)] * len(rows))
    assert len(pieces.splits_W8) <= pieces.max_splits <= largest.max_splits
    assert pieces.max_partials <= largest.max_partials
    assert len(pieces.merges_T4) == len(largest.merges_T4)
    assert len(pieces.tables) <= len(largest.tables)


@settings(max_examples=40, deadline=None)
@given(tiling=tilings, rows=rows_of_a_step)
def test_a_row_is_cut_alike_alone_and_among_others(tiling, rows):
    together = cut_rows(tiling, rows)
    first_token = first_block = 0
    for num_computed, num_new in rows:
        alone = cut_rows(tiling, [(num_computed, num_new)])
        for ours, others in ((alone.splits_W8, together.splits_W8), (alone.tiles_W8, together.tiles_W8)):
            tokens = others[:, 0] - first_token
            mine = others[(tokens >= 0) & (tokens < num_new)]
            assert (mine[:, [1, 2, 4, 5]] == ours[:, [1, 2, 4, 5]]).all()
            assert (mine[:, 3] == first_block).all()
        first_token += num_new
        first_block += -(-(num_computed + num_new) // tiling.block_size)


@settings(max_examples=40, deadline=None)
@given(tiling=tilings, rows=rows_of_a_step)
def test_block_ids_are_those_of_the_rows_in_order(tiling, rows):
    tables = np.arange(len(rows) * 2500).reshape(len(rows), -1)[::-1]
    used = [tables[r, : -(-sum(row) // tiling.block_size)] for r, row in enumerate(rows)]
    assert cut_rows(tiling, rows).tables.tolist() == np.concatenate(used).tolist()


def test_long_tiles_come_first():
    tiles_W8 = cut_rows(Tiling(16, None, 4, 16, 8), [(0, 40), (500, 40)]).tiles_W8
    num_keys = tiles_W8[:, 5] - tiles_W8[:, 4]
    assert (np.diff(num_keys) <= 0).all()
