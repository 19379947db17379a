"""How many blocks the KV cache gets."""

from collections.abc import Callable

import torch

from model.batch import Batch, Join, Proposal, SamplingParams
from model.choices import Choices
from model.description import RunnerOptions
from model.errors import NotEnoughMemory
from model.memory import available_memory
from model.runner import ModelRunner

# Share of the memory left after the weights that the KV cache takes on a CPU, where other programs live too.
CPU_CACHE_SHARE = 0.25
# The cache has room for this many sequences of full length, if memory allows, even where fewer run at once: what has
# ended is worth keeping for those that begin alike.
MIN_CACHED_SEQS = 16
# Set aside for the recorded decode steps of one model. They share the memory of the largest, which for 256 rows of a
# model with 8192 numbers a token is a tenth of this; the rest is for what the driver keeps of each.
GRAPH_BYTES = 2**29


def num_blocks_for(
    options: RunnerOptions, chosen: Choices, block_bytes: int, runner_with: Callable[[int], ModelRunner]
) -> int:
    """Blocks that fit, and no more than are of use. Raises NotEnoughMemory if not one sequence of full length fits."""
    cache_bytes = options.kv_cache_bytes
    if cache_bytes is None:
        largest = largest_batch(options.max_num_seqs, chosen.max_step_tokens, chosen.max_model_len, options.block_size)
        if options.draft_model_dir is not None:
            largest.proposals[0] = Proposal(largest.num_computed[0], largest.num_new[0])
        cache_bytes = _cache_budget(chosen.device, options.gpu_memory_utilization, lambda: runner_with(1), largest)
    sequence_blocks = -(-chosen.max_model_len // options.block_size)
    num_blocks = min(cache_bytes // block_bytes, max(options.max_num_seqs, MIN_CACHED_SEQS) * sequence_blocks)
    if num_blocks < sequence_blocks:
        raise NotEnoughMemory(
            f"the KV cache may take {cache_bytes / 2**20:.2f} MiB, but one sequence of {chosen.max_model_len} tokens "
            f"takes {sequence_blocks * block_bytes / 2**20:.2f} MiB; "
            "lower --max-model-len or raise --kv-cache-memory-bytes"
        )
    return num_blocks


def _cache_budget(
    device: torch.device, utilization: float, make_trial: Callable[[], ModelRunner], largest: Batch
) -> int:
    """Bytes for the KV cache, once the weights are loaded: of a GPU, what they, the largest step and graphs leave."""
    if device.type == "cpu":
        return int(available_memory() * CPU_CACHE_SHARE)
    torch.cuda.reset_peak_memory_stats(device)  # of what loading took besides the weights
    trial = make_trial()
    graph_bytes = GRAPH_BYTES * (trial.can_record + trial.can_record_draft)
    try:
        trial.run(largest)
    except torch.OutOfMemoryError:
        raise NotEnoughMemory(
            f"no room on {device} for a largest step beside the weights; "
            "lower --max-num-batched-tokens, --max-num-seqs or --max-model-len"
        ) from None
    del trial
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(device)
    step_bytes = torch.cuda.max_memory_allocated(device) - torch.cuda.memory_allocated(device)
    return int(free - step_bytes - graph_bytes - total * (1 - utilization))


def largest_batch(max_num_seqs: int, max_step_tokens: int, max_model_len: int, block_size: int) -> Batch:
    """The step that takes most memory: every slot full, one by prefill, drawn from with every parameter in use.

    All blocks are block 0, so that its cache takes next to nothing; what it computes means nothing.
    """
    params = SamplingParams(
        max_tokens=1,
        top_k=2,
        top_p=0.5,
        min_p=0.1,
        repetition_penalty=1.1,
        frequency_penalty=0.1,
        logprobs=20,
        prompt_logprobs=20,
    )
    # One token short of the whole context at most: what has nothing before it need not be gathered from the cache.
    num_prefill = min(max_step_tokens - (max_num_seqs - 1), max(1, max_model_len - 1))
    num_new = [num_prefill] + [1] * (max_num_seqs - 1)
    num_blocks = -(-max_model_len // block_size)
    slots = list(range(max_num_seqs))
    token_ids = [0] * max_model_len
    return Batch(
        slots=slots,
        num_computed=[max_model_len - count for count in num_new],
        num_new=num_new,
        is_sampled=[True] * max_num_seqs,
        joins=[Join(slot, token_ids, max_model_len, 0, params) for slot in slots],
        block_slots=[slot for slot in slots for _ in range(num_blocks)],
        block_indexes=list(range(num_blocks)) * max_num_seqs,
        block_ids=[0] * (num_blocks * max_num_seqs),
    )
