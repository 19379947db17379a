"""Messages in a pipe: msgpack after its length in four bytes."""

from collections.abc import Iterator
from typing import BinaryIO

import msgspec

from model.grammar import Verdict


class Answer(msgspec.Struct, frozen=True):
    """What a child says of a grammar."""

    verdict: Verdict
    is_last: bool = False
    """Whether it ends now, since it has grown large."""


def frame(message: msgspec.Struct) -> bytes:
    """A message as it goes through the pipes."""
    data = msgspec.msgpack.encode(message)
    return len(data).to_bytes(4, "little") + data


def read_frames(pipe: BinaryIO) -> Iterator[bytes]:
    """The messages of a pipe, until it ends."""
    while len(length := pipe.read(4)) == 4:
        yield pipe.read(int.from_bytes(length, "little"))
