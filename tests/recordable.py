"""An attention back end whose decode steps can be recorded, on any device: a row reads as many keys as any may have.

Everything else is the torch back end's, over the same cache.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model.attention.base import StepTensors
from model.attention.torch import TorchAttention

# R rows of one token, B blocks, N keys, H query heads, K kv heads, G query heads of a kv head, D head size


@dataclass(frozen=True, slots=True)
class DecodePlan:
    tables_RB: Tensor
    last_R: Tensor


class RecordableAttention(TorchAttention):
    can_record = True

    def plan(self, slots: Any, num_computed: Any, num_new: Any, block_tables: Any) -> Any:
        if (num_new > 1).any():
            return super().plan(slots, num_computed, num_new, block_tables)
        num_blocks = int(num_computed.max()) // self.cache.block_size + 1
        return DecodePlan(self._on_device(block_tables[slots, :num_blocks]), self._on_device(num_computed))

    def attend(self, layer: int, q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, step: StepTensors[Any]) -> Tensor:
        plan = step.plan
        if not isinstance(plan, DecodePlan):
            return super().attend(layer, q_THD, k_TKD, v_TKD, step)
        self.cache.write(layer, step.write_T, k_TKD, v_TKD)
        position_N = torch.arange(plan.tables_RB.shape[1] * self.cache.block_size, device=q_THD.device)
        read_RN = self._flat(plan.tables_RB, position_N.expand(len(q_THD), -1))
        is_seen_RN = position_N <= plan.last_R.unsqueeze(1)
        k, v = self.cache.read(layer, read_RN.flatten())
        R, H, D = q_THD.shape
        # What was never written may be NaN, which no weight of zero makes harmless.
        k_RNKD, v_RNKD = (
            torch.where(is_seen_RN.view(R, -1, 1, 1), x.view(R, -1, self.num_kv_heads, D), 0.0) for x in (k, v)
        )
        q_RKGD = q_THD.view(R, self.num_kv_heads, -1, D)
        scores_RKGN = torch.einsum("rkgd,rnkd->rkgn", q_RKGD, k_RNKD) / D**0.5
        scores_RKGN = torch.where(is_seen_RN.view(R, 1, 1, -1), scores_RKGN, -torch.inf)
        return torch.einsum("rkgn,rnkd->rkgd", scores_RKGN.softmax(-1), v_RNKD).reshape(R, H, D)


def poison(attention: TorchAttention) -> None:
    for keys, values in attention.cache.layers:
        keys.fill_(torch.nan)
        values.fill_(torch.nan)
