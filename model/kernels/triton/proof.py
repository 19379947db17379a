"""Puts the Triton kernels into a loaded model, if they prove right on the card that is there."""

from collections.abc import Callable

import torch

from model.batch import Join, SamplingParams
from model.description import Check
from model.dtype import name_of
from model.kernels.triton.layers import use_triton_layers
from model.kernels.triton.sampler import TritonSampler
from model.runner import ModelRunner
from model.sampler import Sampler
from model.selfcheck import Probe, agreement, one_line
from model.transformer import Transformer

DRAWN = (
    SamplingParams(max_tokens=1, temperature=0.0),
    SamplingParams(max_tokens=1, seed=1),
    SamplingParams(max_tokens=1, seed=2, top_k=50),
    SamplingParams(max_tokens=1, seed=3, top_p=0.9),
    SamplingParams(max_tokens=1, seed=4, min_p=0.05),
    SamplingParams(max_tokens=1, seed=5, typical_p=0.9),
    SamplingParams(max_tokens=1, seed=6, temperature=0.7, top_k=40, top_p=0.95, min_p=0.01, typical_p=0.95),
)
"""Ways to draw, one of each kind."""


def sampling_check(
    vocab_size: int, device: torch.device, kinds: tuple[type[Sampler], type[Sampler]] = (TritonSampler, Sampler)
) -> Check:
    """Whether both kinds of sampler draw the same tokens from the same logits, in every way."""
    part, slots = "sampling kernel", range(len(DRAWN))
    # Less spread than a model's, so that what a truncation excludes would often be drawn.
    logits_RV = torch.randn(len(DRAWN), vocab_size, generator=torch.Generator().manual_seed(0))
    tokens_SL = torch.zeros(len(DRAWN), 1, dtype=torch.int32, device=device)
    drawn = []
    try:
        for kind in kinds:
            sampler = kind(len(DRAWN), vocab_size, (), device)
            sampler.join([Join(slot, [0], 1, 0, DRAWN[slot]) for slot in slots])
            draws = sampler.sample(logits_RV.to(device, copy=True), slots, [1] * len(slots), tokens_SL)
            drawn.append(draws.token_ids_R.tolist())
    except Exception as error:  # as in `agreement`
        return Check(part, False, f"it failed: {one_line(error)}")
    num_equal = sum(ours == theirs for ours, theirs in zip(*drawn, strict=True))
    return Check(part, num_equal == len(slots), f"{num_equal} of {len(slots)} tokens drawn as torch draws them")


def use_if_proved(
    model: Transformer, probe: Probe, on_torch: Callable[[], ModelRunner], on_triton: Callable[[], ModelRunner]
) -> Check:
    """Compute the probe's texts by both; the model keeps its own layers where the kernels fail or differ.

    Both runners are to be of `model`, with the torch and the Triton attention.
    """
    part = "Triton kernels"
    if probe.is_empty:
        return Check(part, False, "the context is too short to prove them")
    expected = probe.logprobs(on_torch())
    blocks, norm = model.layers, model.norm

    def computed() -> list[float]:
        use_triton_layers(model)
        return probe.logprobs(on_triton())

    check = agreement(part, name_of(model.dtype), expected, computed)
    if not check.is_used:
        model.layers, model.norm = blocks, norm
    return check
