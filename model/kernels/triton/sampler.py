"""Draws with our own Triton kernel what model/sampler.py draws with torch."""

import numpy as np
import torch
from torch import Tensor

from model.kernels.triton.sampling import choose
from model.sampler import Rows, Sampler, choice_columns

# R rows of the step, V vocabulary


class TritonSampler(Sampler):
    """A Sampler whose last part, from shaped logits to tokens, is one launch."""

    block = 1024
    """Logits that a program reads together: four for each of its threads, so that no register spills."""

    def _choose(self, logits_RV: Tensor, rows: Rows) -> Tensor:
        columns_R6 = np.stack([column.astype(np.float64) for column in choice_columns(rows).values()], axis=1)
        num_rows, vocab_size = logits_RV.shape
        token_ids_R = torch.empty(num_rows, dtype=torch.int64, device=logits_RV.device)
        scratch_RV, ids_RV = torch.empty_like(logits_RV), torch.empty_like(logits_RV, dtype=torch.int32)
        choose[(num_rows,)](
            logits_RV, scratch_RV, ids_RV, self._to_device(columns_R6), token_ids_R,
            V=vocab_size, BLOCK=self.block, num_warps=8, enable_fp_fusion=False,
        )  # fmt: skip
        return token_ids_R
