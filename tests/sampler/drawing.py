"""What a sampler of its own for some hardware is given, to be compared with the torch sampler."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from model.batch import Join, SamplingParams
from model.sampler import Sampler

all_params = st.builds(
    SamplingParams,
    max_tokens=st.just(9),
    seed=st.integers(0, 2**64 - 1),
    temperature=st.sampled_from([0.0, 1e-6, 0.3, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 5, 40, 10**6]),
    top_p=st.sampled_from([1e-10, 0.5, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 1.0]),
    typical_p=st.sampled_from([0.3, 0.9, 1.0, 1.0]),
)


def drawn(sampler: Sampler, logits_RV: Tensor, params: list[SamplingParams]) -> list[int]:
    slots = list(range(len(params)))
    sampler.join([Join(slot, [0, 1], 2, slot, how) for slot, how in zip(slots, params, strict=True)])
    tokens_SL = torch.zeros(len(params), 16, dtype=torch.int32)
    return sampler.sample(logits_RV.clone(), slots, [2] * len(params), tokens_SL).token_ids_R.tolist()
