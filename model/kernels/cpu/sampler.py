"""Draws with our own kernel what model/sampler.py draws with torch."""

from collections.abc import Sequence
from ctypes import addressof

import torch
from torch import Tensor

from model.kernels.cpu import operators
from model.kernels.cpu.library import CpuKernels
from model.kernels.cpu.structs import ChoicesArguments, MasksArguments
from model.sampler import Rows, Sampler, choice_columns
from model.slot_matchers import TokenMasks

# R rows of the step, V vocabulary


class CpuSampler(Sampler):
    """A Sampler whose last part, from shaped logits to tokens, is one call, and the masks of grammars another."""

    def __init__(self, kernels: CpuKernels, max_num_seqs: int, vocab_size: int, eos_token_ids: Sequence[int]) -> None:
        super().__init__(max_num_seqs, vocab_size, eos_token_ids, torch.device("cpu"))
        self._kernels = kernels

    def _forbid(self, logits_RV: Tensor, masks: TokenMasks) -> None:
        arguments = MasksArguments(
            num_masked=len(masks.rows_C),
            vocab_size=logits_RV.shape[1],
            num_bytes=masks.bits_CW.shape[1],
            rows=masks.rows_C.ctypes.data,
            bits=masks.bits_CW.ctypes.data,
        )
        operators.forbid(logits_RV, self._forbidding_table, self._kernels.address, addressof(arguments))

    def _choose(self, logits_RV: Tensor, rows: Rows) -> Tensor:
        columns = choice_columns(rows)
        arguments = ChoicesArguments(
            num_rows=len(rows),
            vocab_size=logits_RV.shape[1],
            **{name: column.ctypes.data for name, column in columns.items()},
        )
        token_ids_R: Tensor = operators.choose(logits_RV, self._kernels.address, addressof(arguments))
        return token_ids_R
