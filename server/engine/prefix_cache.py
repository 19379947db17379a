"""Which of a sequence's blocks are in the cache, and which it will bring there."""

from array import array

from server.engine.block_pool import BlockPool, chain_hash
from server.engine.sequence import Sequence


class PrefixCache:
    """Knows full blocks by a chained hash of their tokens and everything before them; the pool keeps their content."""

    def __init__(self, pool: BlockPool, *, is_shared: bool) -> None:
        """`is_shared`: among all sequences of one salt; otherwise only among those of one request."""
        self._pool = pool
        self._size = pool.block_size
        self._is_shared = is_shared
        # Full blocks that a running sequence is about to compute. Who needs the same content waits for it instead.
        self._in_progress: dict[bytes, Sequence] = {}

    def find(self, sequence: Sequence) -> list[int]:
        """The blocks of the sequence's beginning that are here."""
        # At least one token is left to compute, since its logits are wanted.
        most = len(sequence.token_ids) - 1
        if sequence.owes_prompt_logprobs:
            # Cached blocks hold no logits: whoever wants the prompt's must compute it.
            most = sequence.num_prompt_logprobs
        return self._pool.find(sequence.block_hashes[: most // self._size])

    def is_in_progress(self, sequence: Sequence, num_cached_blocks: int) -> bool:
        """Whether another sequence is computing the first block that this one lacks."""
        hashes = sequence.block_hashes
        if num_cached_blocks >= min(len(hashes), (len(sequence.token_ids) - 1) // self._size):
            return False
        return sequence.params.prompt_logprobs is None and hashes[num_cached_blocks] in self._in_progress

    def claim(self, sequence: Sequence) -> None:
        """Note that the sequence is about to compute the full blocks that it has not registered."""
        for key in sequence.block_hashes[sequence.num_registered :]:
            self._in_progress.setdefault(key, sequence)

    def disclaim(self, sequence: Sequence) -> None:
        """It will not compute them after all."""
        for key in sequence.block_hashes[sequence.num_registered :]:
            self._drop_claim(key, sequence)

    def register(self, sequence: Sequence) -> None:
        """Make its blocks findable that are full of known tokens.

        A step that computes some of them may still be on its way: whoever finds them comes after it on the device.
        """
        num_full = min(sequence.num_computed, len(sequence.token_ids)) // self._size
        self.extend_hashes(sequence)
        for index in range(sequence.num_registered, num_full):
            key = sequence.block_hashes[index]
            self._pool.register(sequence.blocks[index], key)
            self._drop_claim(key, sequence)
        sequence.num_registered = num_full

    def extend_hashes(self, sequence: Sequence) -> None:
        """Hash the full blocks of its known tokens, as far as that was not done before."""
        size, hashes = self._size, sequence.block_hashes
        start, end = len(hashes), len(sequence.token_ids) // size
        if start == end:
            return
        data = array("q", sequence.token_ids[start * size : end * size]).tobytes()
        parent = hashes[-1] if hashes else self._root(sequence)
        for offset in range(0, len(data), 8 * size):
            parent = chain_hash(parent, data[offset : offset + 8 * size])
            hashes.append(parent)

    def check(self, running: list[Sequence]) -> None:
        """Raise AssertionError if one that does not run claims a block. For tests."""
        assert all(owner in running for owner in self._in_progress.values())

    def _drop_claim(self, key: bytes, sequence: Sequence) -> None:
        if self._in_progress.get(key) is sequence:
            del self._in_progress[key]

    def _root(self, sequence: Sequence) -> bytes:
        """What a sequence's chain of hashes starts from: the salt, or its request where only that may share."""
        if self._is_shared:
            return chain_hash(b"salt", sequence.salt)
        return chain_hash(b"request", sequence.request)
