"""Cuts a step's attention into pieces that programs of a GPU take one by one, on the host and in whole columns.

A *piece* is some queries of one row against a run of its keys. Rows with few new tokens (decode, drafts) are *split*:
several pieces share the row's context, and what they find is merged. Rows with more (prefill chunks) get a piece for
each tile of queries, over all the keys that the tile sees. How a row is cut depends on that row alone, never on its
neighbours, so neither does the order of its sums.
"""

# R rows, T tokens, W pieces, P partial results

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MAX_SPLITS = 32
"""Most partial results of a row, over all of its tokens: what the merge holds at once, and a bound on their memory."""
MAX_SPLIT_TOKENS = 16
"""Rows with more new tokens are computed tile by tile: they keep a GPU busy without splits."""

Columns = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a back end wants steps cut."""

    block_size: int
    window: int | None
    split_tokens: int
    """Queries of one piece of a split row: as many as fill a tile, their heads counted."""
    split_size: int
    """Keys of a split, or a multiple of it where there would be more than MAX_SPLITS."""
    tile_tokens: int
    """Queries of one piece of a prefill row."""


@dataclass(frozen=True, slots=True)
class StepPieces:
    """One step, cut; all int32, as the kernels read it (model/kernels/triton/attention.py)."""

    splits_W8: Columns
    """Pieces of split rows: first token in the step, number of tokens, position of the first, where the row's block
    ids begin in `tables`, first key, end of keys, first partial result, partial results from one token to the next."""
    merges_T4: Columns
    """For each token of a split row: its place in the step, its first partial result, their number, 0."""
    tiles_W8: Columns
    """Pieces of prefill rows, most keys first, so that no long one begins last; the last two columns are unused."""
    tables: Columns
    """The block ids of each row up to its last token, one row after the other."""
    max_splits: int
    """No fewer than these rows have split pieces, nor than they had when they were shorter."""
    max_partials: int
    """The same for partial results."""


def cut(
    tiling: Tiling,
    slots: NDArray[np.int64],
    num_computed: NDArray[np.int64],
    num_new: NDArray[np.int64],
    block_tables: NDArray[np.int32],
) -> StepPieces:
    """The pieces of a step: see AttentionBackend.plan for the columns."""
    num_blocks = -(-(num_computed + num_new) // tiling.block_size)
    tables = block_tables[slots, : int(num_blocks.max())]
    rows = _Rows(
        first_token=np.cumsum(num_new) - num_new,
        num_computed=num_computed,
        num_new=num_new,
        table=np.cumsum(num_blocks) - num_blocks,
    )
    is_split = num_new <= MAX_SPLIT_TOKENS
    split_rows = rows.where(is_split)
    splits_W8, merges_T4 = _splits(tiling, split_rows)
    max_splits = _max_splits(tiling, split_rows)
    num_tiles = -(-split_rows.num_new // tiling.split_tokens)
    return StepPieces(
        splits_W8,
        merges_T4,
        _tiles(tiling, rows.where(~is_split)),
        tables[np.arange(tables.shape[1]) < num_blocks[:, None]],
        max_splits=int((max_splits * num_tiles).sum()),
        max_partials=int((max_splits * split_rows.num_new).sum()),
    )


@dataclass(frozen=True, slots=True)
class _Rows:
    """Columns with an entry for each row, int64."""

    first_token: NDArray[np.int64]
    num_computed: NDArray[np.int64]
    num_new: NDArray[np.int64]
    table: NDArray[np.int64]

    def where(self, is_wanted: NDArray[np.bool_]) -> "_Rows":
        return _Rows(
            self.first_token[is_wanted], self.num_computed[is_wanted], self.num_new[is_wanted], self.table[is_wanted]
        )


def _splits(tiling: Tiling, rows: _Rows) -> tuple[Columns, Columns]:
    ends = rows.num_computed + rows.num_new
    first_key = _first_visible(tiling, rows.num_computed)
    # Splits lie at multiples of their size, so a window may begin within one and touch one more.
    most = np.maximum(MAX_SPLITS // rows.num_new - (tiling.window is not None), 1)
    size = -(-(ends - first_key) // (tiling.split_size * most)) * tiling.split_size
    first_split = first_key // size
    num_splits = (ends - 1) // size - first_split + 1
    num_partials = num_splits * rows.num_new
    first_partial = np.cumsum(num_partials) - num_partials

    num_tiles = -(-rows.num_new // tiling.split_tokens)
    row_W, place_W = _expand(num_tiles * num_splits)
    tile_W, split_W = np.divmod(place_W, num_splits[row_W])
    offset_W = tile_W * tiling.split_tokens
    num_tokens_W = np.minimum(tiling.split_tokens, rows.num_new[row_W] - offset_W)
    start_W = (first_split[row_W] + split_W) * size[row_W]
    position_W = rows.num_computed[row_W] + offset_W
    splits_W8 = (
        rows.first_token[row_W] + offset_W,
        num_tokens_W,
        position_W,
        rows.table[row_W],
        np.maximum(start_W, first_key[row_W]),
        np.minimum(start_W + size[row_W], position_W + num_tokens_W),
        first_partial[row_W] + offset_W * num_splits[row_W] + split_W,
        num_splits[row_W],
    )
    row_T, place_T = _expand(rows.num_new)
    merges_T4 = (
        rows.first_token[row_T] + place_T,
        first_partial[row_T] + place_T * num_splits[row_T],
        num_splits[row_T],
        np.zeros_like(row_T),
    )
    return _columns(splits_W8), _columns(merges_T4)


def _max_splits(tiling: Tiling, rows: _Rows) -> NDArray[np.int64]:
    """For each row no fewer splits than it has, and never fewer for a longer context.

    The number itself is halved, or nearly, each time that the size of its splits grows.
    """
    ends = rows.num_computed + rows.num_new
    most: NDArray[np.int64] = np.minimum(ends // tiling.split_size + 1, np.maximum(MAX_SPLITS // rows.num_new, 1))
    return most


def _tiles(tiling: Tiling, rows: _Rows) -> Columns:
    row_W, tile_W = _expand(-(-rows.num_new // tiling.tile_tokens))
    offset_W = tile_W * tiling.tile_tokens
    num_tokens_W = np.minimum(tiling.tile_tokens, rows.num_new[row_W] - offset_W)
    position_W = rows.num_computed[row_W] + offset_W
    first_key_W = _first_visible(tiling, position_W)
    end_key_W = position_W + num_tokens_W
    nothing_W = np.zeros_like(row_W)
    tiles_W8 = _columns(
        (
            rows.first_token[row_W] + offset_W,
            num_tokens_W,
            position_W,
            rows.table[row_W],
            first_key_W,
            end_key_W,
            nothing_W,
            nothing_W,
        )
    )
    return tiles_W8[np.argsort(first_key_W - end_key_W, kind="stable")]


def _first_visible(tiling: Tiling, position: NDArray[np.int64]) -> NDArray[np.int64]:
    """The oldest key that a query at `position` sees."""
    return np.zeros_like(position) if tiling.window is None else np.maximum(position + 1 - tiling.window, 0)


def _expand(counts_R: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """For each of the rows' entries, one row after the other: its row, and its number within the row."""
    row_W = np.repeat(np.arange(len(counts_R)), counts_R)
    return row_W, np.arange(len(row_W)) - (np.cumsum(counts_R) - counts_R)[row_W]


def _columns(columns: tuple[NDArray[np.int64], ...]) -> Columns:
    return np.stack(columns, axis=1).astype(np.int32)
