"""Draws with our own kernel what model/sampler.py draws with torch."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.kernels.cpu.library import ChoicesArguments, CpuKernels
from model.random_draw import uniforms
from model.sampler import GREEDY_TEMPERATURE, Rows, Sampler
from model.truncation import min_p_gap

# R rows of the step, V vocabulary


class CpuSampler(Sampler):
    """A Sampler whose last part, from shaped logits to tokens, is one call."""

    def __init__(self, kernels: CpuKernels, max_num_seqs: int, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        super().__init__(max_num_seqs, vocab_size, eos_token_ids, torch.device("cpu"))
        self._kernels = kernels

    def _choose(self, logits_RV: Tensor, rows: Rows) -> Tensor:
        is_greedy = rows["temperature"] < GREEDY_TEMPERATURE
        uniform = np.zeros(len(rows))
        if not is_greedy.all():
            uniform = uniforms(rows["seed"], rows["choice"], rows["num_generated"].astype(np.uint64))
        columns: dict[str, NDArray[np.generic]] = {
            "temperature": np.where(is_greedy, 0, rows["temperature"]).astype(np.float32),
            "top_k": np.ascontiguousarray(rows["top_k"]),
            "top_p": np.ascontiguousarray(rows["top_p"]),
            "min_p_gap": min_p_gap(torch.from_numpy(np.ascontiguousarray(rows["min_p"]))).float().numpy(),
            "typical_p": np.ascontiguousarray(rows["typical_p"]),
            "uniform": uniform,
        }
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
