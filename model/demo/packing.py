"""Packs encoded documents into rows of one length, so that no document sees another and few are cut.

# B rows in a batch, T tokens in a row
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from model.demo.corpus import Document

IGNORED = -100
"""Label of a token that is only read (torch's default ignore_index)."""

NUM_PENDING = 48
"""Documents that wait for a row they fit into: with fewer, rows end in more padding."""


@dataclass(frozen=True)
class Encoded:
    """A document's tokens, with the label of each: itself, or `IGNORED` where it is only read."""

    token_ids: list[int]
    labels: list[int]


def encode(tokenizer: Tokenizer, document: Document) -> Encoded:
    """Encodes segment by segment, so that what is learned ends exactly where the segment does."""
    token_ids: list[int] = []
    labels: list[int] = []
    for segment in document:
        ids = tokenizer.encode(segment.text, add_special_tokens=False).ids
        token_ids += ids
        labels += ids if segment.is_learned else [IGNORED] * len(ids)
    return Encoded(token_ids, labels)


@dataclass(frozen=True)
class PackedRows:
    """What one training step reads."""

    token_ids_BT: Tensor
    labels_BT: Tensor
    positions_BT: Tensor
    """From 0 in each document."""
    mask_B1TT: Tensor
    """True where a token may see another: an earlier one of its own document, or itself."""


def packed(documents: Iterator[Encoded], num_rows: int, length: int) -> Iterator[PackedRows]:
    """Batches without end from documents without end."""
    pending = [next(documents) for _ in range(NUM_PENDING)]
    while True:
        yield _collate([_fill_row(pending, documents, length) for _ in range(num_rows)], length)


def _fill_row(pending: list[Encoded], documents: Iterator[Encoded], length: int) -> list[Encoded]:
    """Takes the oldest document, then whatever still fits, oldest first. One too long for a row is cut."""
    row: list[Encoded] = []
    room = length
    while room > 0:
        index = next((i for i, d in enumerate(pending) if not row or len(d.token_ids) <= room), None)
        if index is None:
            break
        document = pending.pop(index)
        pending.append(next(documents))
        row.append(Encoded(document.token_ids[:length], document.labels[:length]))
        room -= len(row[-1].token_ids)
    return row


def _collate(rows: list[list[Encoded]], length: int) -> PackedRows:
    token_ids = torch.zeros(len(rows), length, dtype=torch.long)
    labels = torch.full((len(rows), length), IGNORED)
    positions = torch.zeros(len(rows), length, dtype=torch.long)
    owners = torch.full((len(rows), length), -1)
    for r, row in enumerate(rows):
        start = 0
        for number, document in enumerate(row):
            end = start + len(document.token_ids)
            token_ids[r, start:end] = torch.tensor(document.token_ids)
            labels[r, start:end] = torch.tensor(document.labels)
            positions[r, start:end] = torch.arange(end - start)
            owners[r, start:end] = number
            start = end
    is_own = owners[:, None, :, None] == owners[:, None, None, :]
    is_past = torch.ones(length, length, dtype=torch.bool).tril()
    return PackedRows(token_ids, labels, positions, is_own & is_past)
