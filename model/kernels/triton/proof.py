"""Puts the Triton kernels into a loaded model, if they prove right on the card that is there."""

from collections.abc import Callable

from model.description import Check
from model.kernels.triton.layers import use_triton_layers
from model.runner import ModelRunner
from model.selfcheck import Probe, agreement
from model.transformer import Transformer


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

    check = agreement(part, str(model.dtype).removeprefix("torch."), expected, computed)
    if not check.is_used:
        model.layers, model.norm = blocks, norm
    return check
