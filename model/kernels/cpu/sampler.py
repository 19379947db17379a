"""Draws with our own kernel what model/sampler.py draws with torch."""

from collections.abc import Sequence

import torch
from torch import Tensor

from model.kernels.cpu.library import ChoicesArguments, CpuKernels
from model.sampler import Rows, Sampler, choice_columns

# R rows of the step, V vocabulary


class CpuSampler(Sampler):
    """A Sampler whose last part, from shaped logits to tokens, is one call."""

    def __init__(self, kernels: CpuKernels, max_num_seqs: int, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        super().__init__(max_num_seqs, vocab_size, eos_token_ids, torch.device("cpu"))
        self._kernels = kernels

    def _choose(self, logits_RV: Tensor, rows: Rows) -> Tensor:
        columns = choice_columns(rows)
        token_ids_R = torch.empty(len(rows), dtype=torch.int64)
        self._kernels.choose(
            ChoicesArguments(
                num_rows=len(rows),
                vocab_size=logits_RV.shape[1],
                logits=logits_RV.data_ptr(),
                **{name: column.ctypes.data for name, column in columns.items()},
                token_ids=token_ids_R.data_ptr(),
            )
        )
        return token_ids_R
