"""What computes hidden states: a model over a cache."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from model.attention.base import AttentionBackend, StepTensors
from model.graphs import DecodeGraphs
from model.transformer import Transformer

# T tokens in the step, E hidden size


@dataclass(slots=True)
class Decoder:
    """A model with its cache and its recorded decode steps."""

    model: Transformer
    backend: AttentionBackend[Any]
    graphs: DecodeGraphs = field(default_factory=DecodeGraphs)

    def compute(self, step: StepTensors[Any]) -> Tensor:
        """The hidden states of a step's tokens, hidden_TE."""
        hidden_TE: Tensor = self.model(step, self.backend)
        return hidden_TE
