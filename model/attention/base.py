"""What every attention back end offers, and the tensors of one step that it works on."""

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.config import ModelConfig

# T tokens in the step, H query heads, K kv heads, D head size

PlanT = TypeVar("PlanT")


@dataclass(slots=True)
class StepTensors(Generic[PlanT]):
    """One step on the device: rows one after the other, each with its new tokens in order."""

    token_ids_T: Tensor
    """int64."""
    positions_T: Tensor
    """int64, each token's place in its own sequence."""
    write_T: Tensor
    """int64, flat cache position that each token's key and value are written to."""
    plan: PlanT
    """What the back end's own `plan` made of the rows."""


class AttentionBackend(Protocol[PlanT]):
    """Writes and reads the KV cache. Holds the cache; what a step needs comes with the step."""

    can_record: bool
    """Whether steps of one new token a row can be recorded and played back (see model/graphs.py).

    Then `attend` only enqueues such a step, its plan is a dataclass, and the plan of as many rows of the longest
    context serves every other once that one's tensors were copied to the beginnings of its own, all else unchanged.
    """

    @staticmethod
    def supports(config: ModelConfig, device: torch.device) -> str | None:
        """None, or the reason why this back end can't run the model there."""

    def plan(
        self,
        slots: NDArray[np.int64],
        num_computed: NDArray[np.int64],
        num_new: NDArray[np.int64],
        block_tables: NDArray[np.int32],
    ) -> PlanT:
        """Device tensors that all layers of one step share, from host columns with an entry for each row.

        Row r has `num_computed[r]` tokens in the cache, computes `num_new[r]` (at least 1) more, and its token i
        lives in block `block_tables[slots[r], i // block_size]`. Never waits for the device.
        """

    def attend(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, step: StepTensors[PlanT]) -> Tensor:
        """Causal attention of the step's tokens over their whole context. Returns o_THD.

        Writes k and v into the cache first, so a token sees itself. Scale 1/sqrt(D) (Vaswani et al. 2017, eq. 1).
        """
