"""No step takes more of a GPU's memory than the one that the KV cache's size is measured beside."""

import dataclasses
import random
import weakref
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from model.batch import Batch, Join, SamplingParams
from model.cache_size import largest_batch
from tests.gpu.fake_cuda import BLOCK, MAX_MODEL_LEN, make_runner

pytestmark = pytest.mark.usefixtures("fake_cuda")

SIZES = [(1, 512), (16, 64), (64, 64), (64, 300), (200, 256)]
"""max_num_seqs and max_step_tokens."""


class PeakMemory(TorchDispatchMode):
    """Adds up the bytes of the GPU tensors that live, by storage, and keeps the largest sum."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = self.peak_bytes = 0
        self._storages: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor) and tensor.device.type == "cuda":
                self._count(tensor.untyped_storage())
        return output

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._storages:
            return
        self._storages.add(storage)
        self._change(storage.nbytes())
        weakref.finalize(storage, self._change, -storage.nbytes())

    def _change(self, num_bytes: int) -> None:
        self.num_bytes += num_bytes
        self.peak_bytes = max(self.peak_bytes, self.num_bytes)


def step_bytes(batch: Batch, max_num_seqs: int) -> int:
    """Peak of one step, without weights, cache and tables."""
    runner = make_runner(max_num_seqs=max_num_seqs)
    with PeakMemory() as memory:
        runner.enqueue(batch)
    return memory.peak_bytes


def random_batch(rng: random.Random, max_num_seqs: int, max_step_tokens: int) -> Batch:
    """Any rows that fit the limits, of sequences with any parameters."""
    batch = Batch()
    budget = max_step_tokens
    for slot in range(rng.choice([1, max_num_seqs, rng.randint(1, max_num_seqs)])):
        left = budget - sum(batch.num_new)
        if not left:
            break
        num_new = rng.choice([1, 1, 1, min(left, MAX_MODEL_LEN, rng.randint(1, 300))])
        num_computed = rng.choice([0, MAX_MODEL_LEN - num_new, rng.randint(0, MAX_MODEL_LEN - num_new)])
        num_tokens = num_computed + num_new
        batch.slots.append(slot)
        batch.num_computed.append(num_computed)
        batch.num_new.append(num_new)
        batch.is_sampled.append(rng.random() < 0.9)
        batch.joins.append(Join(slot, [1] * num_tokens, rng.randint(1, num_tokens), 0, random_params(rng)))
    return batch


def random_params(rng: random.Random) -> SamplingParams:
    return SamplingParams(
        max_tokens=9,
        min_tokens=rng.choice([0, 0, 9]),
        temperature=rng.choice([0.0, 1.0, 1.0]),
        top_k=rng.choice([0, 5, 3000]),
        top_p=rng.choice([1.0, 0.9]),
        min_p=rng.choice([0.0, 0.1]),
        repetition_penalty=rng.choice([1.0, 1.0, 1.2]),
        presence_penalty=rng.choice([0.0, 0.5]),
        logit_bias=rng.choice([(), tuple((i, 1.0) for i in range(300))]),
        logprobs=rng.choice([None, None, 0, 20]),
        prompt_logprobs=rng.choice([None, None, 20]),
    )


@pytest.mark.parametrize("sizes", SIZES)
def test_no_step_takes_more_memory_than_the_largest(sizes):
    max_num_seqs, max_step_tokens = sizes
    largest = step_bytes(largest_batch(max_num_seqs, max_step_tokens, MAX_MODEL_LEN, BLOCK), max_num_seqs)
    for seed in range(6):
        taken = step_bytes(random_batch(random.Random(seed), max_num_seqs, max_step_tokens), max_num_seqs)
        assert taken <= largest, f"seed {seed}"


@pytest.mark.parametrize(
    "less",
    [
        pytest.param({"top_k": 0, "top_p": 1.0, "min_p": 0.0}, id="no truncation"),
        pytest.param({"logprobs": None}, id="no log-probabilities"),
    ],
)
def test_the_largest_step_would_take_less_without_its_parameters(less):
    """So the measure sees what they take."""
    batch = largest_batch(64, 64, MAX_MODEL_LEN, BLOCK)
    joins = [dataclasses.replace(j, params=msgspec.structs.replace(j.params, **less)) for j in batch.joins]
    assert step_bytes(dataclasses.replace(batch, joins=joins), 64) < step_bytes(batch, 64)
