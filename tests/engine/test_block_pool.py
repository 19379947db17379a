"""The block pool against a plain model of it."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from server.engine.block_pool import HASH_BYTES, BlockPool, chain_hash

NUM_BLOCKS = 6


class PoolMachine(RuleBasedStateMachine):
    """Holders come and go; content may be asked for again until its block was evicted."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(NUM_BLOCKS, block_size=4)
        self.holders: list[list[int]] = []
        self.num_keys = 0
        self.registered: set[int] = set()

    @rule(count=st.integers(1, 3))
    def allocate(self, count: int) -> None:
        if count <= self.pool.num_available:
            blocks = self.pool.allocate(count)
            assert not set(blocks) & {block for held in self.holders for block in held}
            self.holders.append(blocks)
            self.registered -= set(blocks)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def register(self, data: st.DataObject) -> None:
        block = data.draw(st.sampled_from(self.holders))[0]
        if block not in self.registered:
            self.pool.register(block, b"%d" % data.draw(st.integers(0, self.num_keys)))
            self.num_keys += 1
            self.registered.add(block)

    @precondition(lambda self: self.holders)
    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        self.pool.release(self.holders.pop(data.draw(st.integers(0, len(self.holders) - 1))))

    @rule(key=st.integers(0, 30))
    def hold_what_is_found(self, key: int) -> None:
        found = self.pool.find([b"%d" % key])
        if found:
            self.pool.hold(found)
            self.holders.append(found)

    @invariant()
    def every_block_is_in_one_state(self) -> None:
        self.pool.check(self.holders)
        assert self.pool.num_held == len({block for held in self.holders for block in held})


TestPool = PoolMachine.TestCase


def fill(pool: BlockPool, keys: list[bytes]) -> list[int]:
    blocks = pool.allocate(len(keys))
    for block, key in zip(blocks, keys, strict=True):
        pool.register(block, key)
    return blocks


def test_what_was_used_longest_ago_is_evicted_first_and_a_prompts_beginning_last() -> None:
    pool = BlockPool(4, block_size=4)
    older = fill(pool, [b"a0", b"a1"])
    newer = fill(pool, [b"b0", b"b1"])
    pool.release(older)
    pool.release(newer)
    pool.allocate(1)
    assert pool.find([b"a0"]) == older[:1]
    assert pool.find([b"a1"]) == []
    pool.allocate(1)
    assert pool.find([b"a0"]) == []
    assert pool.find([b"b0", b"b1"]) == newer


def test_free_blocks_are_taken_before_cached_ones() -> None:
    pool = BlockPool(2, block_size=4)
    pool.release(fill(pool, [b"a"]))
    pool.allocate(1)
    assert pool.find([b"a"]) != []


def test_a_block_that_is_held_is_never_evicted() -> None:
    pool = BlockPool(2, block_size=4)
    held = fill(pool, [b"a", b"b"])
    assert pool.num_available == 0
    pool.hold(held[:1])
    pool.release(held)
    assert pool.num_available == 1
    assert pool.allocate(1) == held[1:]


def test_lookup_stops_at_the_first_block_that_is_missing() -> None:
    pool = BlockPool(4, block_size=4)
    blocks = fill(pool, [b"a", b"b", b"c"])
    assert pool.find([b"a", b"x", b"c"]) == blocks[:1]


def test_is06_a_hash_depends_on_everything_before_it_and_has_128_bits() -> None:
    first, second = chain_hash(b"", b"same"), chain_hash(chain_hash(b"", b"other"), b"same")
    assert first != second
    assert len(first) == HASH_BYTES == 16


def test_a_broken_count_is_noticed() -> None:
    pool = BlockPool(2, block_size=4)
    blocks = pool.allocate(1)
    with pytest.raises(AssertionError, match="miscounted"):
        pool.check([blocks, blocks])
