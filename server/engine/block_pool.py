"""Which KV blocks are free, held and cached.

A block is in exactly one of three states: *free* (content worthless), *held* (by one or more sequences), or *cached*
(held by nobody, content kept under its hash until somebody wants it or the space). Held full blocks have hashes too, so
sequences share them.
"""

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Sequence
from hashlib import blake2b

# 128 bits: finding two prompts that collide costs 2**64 hashes (known weakness of short or predictable keys).
HASH_BYTES = 16


def chain_hash(parent: bytes, block_tokens: bytes) -> bytes:
    """The hash of a full block: of its tokens (as bytes) and, through `parent`, of everything before it."""
    return blake2b(parent + block_tokens, digest_size=HASH_BYTES).digest()


class BlockPool:
    """Hands out blocks 0 to `num_blocks - 1`, counts who holds them, and finds cached ones by hash."""

    def __init__(self, num_blocks: int, block_size: int) -> None:
        self.num_blocks = num_blocks
        self.block_size = block_size
        self._free: deque[int] = deque(range(num_blocks))
        self._holders = [0] * num_blocks
        self._hash_of: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        # Least recently released first, which is the order of eviction.
        self._cached: OrderedDict[int, None] = OrderedDict()

    @property
    def num_available(self) -> int:
        """Blocks that `allocate` can give: free ones and cached ones that nobody holds."""
        return len(self._free) + len(self._cached)

    @property
    def num_held(self) -> int:
        """Blocks that at least one sequence holds."""
        return self.num_blocks - self.num_available

    def allocate(self, count: int) -> list[int]:
        """`count` blocks for one holder, evicting cached content as needed. The caller checked `num_available`."""
        assert count <= self.num_available
        blocks = [self._free.popleft() if self._free else self._evict() for _ in range(count)]
        for block in blocks:
            self._holders[block] = 1
        return blocks

    def find(self, hashes: Iterable[bytes]) -> list[int]:
        """The blocks of the longest run of `hashes`, from the first on, whose content is here."""
        blocks = []
        for key in hashes:
            block = self._block_of.get(key)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def num_cached_among(self, blocks: Iterable[int]) -> int:
        """How many of `blocks` nobody holds, so that holding them lowers `num_available`."""
        return sum(self._holders[block] == 0 for block in blocks)

    def num_freed_by(self, held: Iterable[Sequence[int]]) -> int:
        """How many blocks nobody would hold any more if these holders released theirs."""
        counts = Counter(block for blocks in held for block in blocks)
        return sum(self._holders[block] == count for block, count in counts.items())

    def hold(self, blocks: Iterable[int]) -> None:
        """Count one more holder for blocks that `find` gave."""
        for block in blocks:
            if self._holders[block] == 0:
                del self._cached[block]
            self._holders[block] += 1

    def register(self, block: int, key: bytes) -> None:
        """Make a held, full block findable. If another block with this content is known already, that one stays so."""
        assert self._hash_of[block] is None
        if key not in self._block_of:
            self._block_of[key] = block
            self._hash_of[block] = key

    def release(self, blocks: Sequence[int]) -> None:
        """Count one holder less for each of a sequence's blocks."""
        # Last first: a prompt's first block is the one most likely to be asked for again, so it must be evicted last.
        for block in reversed(blocks):
            self._holders[block] -= 1
            assert self._holders[block] >= 0
            if self._holders[block] == 0:
                if self._hash_of[block] is None:
                    self._free.append(block)
                else:
                    self._cached[block] = None

    def check(self, held: Iterable[Sequence[int]]) -> None:
        """Raise AssertionError unless blocks and counts are exactly those of the given holders. Costs O(num_blocks)."""
        expected = [0] * self.num_blocks
        for blocks in held:
            for block in blocks:
                expected[block] += 1
        assert self._holders == expected, "holders are miscounted"
        unheld = {block for block, count in enumerate(expected) if count == 0}
        assert len(self._free) + len(self._cached) == len(unheld), "a block is lost or owned twice"
        assert set(self._free) | set(self._cached) == unheld, "a held block is free"
        assert all(self._hash_of[block] is None for block in self._free), "a free block is findable"
        assert all(self._hash_of[block] is not None for block in self._cached), "a cached block cannot be found"
        assert all(self._hash_of[block] == key for key, block in self._block_of.items()), "hashes disagree"
        assert len(self._block_of) == sum(key is not None for key in self._hash_of), "a hash is orphaned"

    def _evict(self) -> int:
        block, _ = self._cached.popitem(last=False)
        key = self._hash_of[block]
        assert key is not None
        del self._block_of[key]
        self._hash_of[block] = None
        return block
