"""Changes of the logits before a token is chosen: penalties for repetition, logit bias, tokens held back or forbidden.

All work in place on the rows that ask for them, and touch only the tokens concerned.
"""

# R rows of the step, P rows concerned, V vocabulary, W bytes of a bit for each token, L history,
# N entries of a row's list of tokens

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(slots=True, frozen=True)
class History:
    """The tokens so far of some rows. `tokens_PL` may hold anything beyond a row's tokens."""

    tokens_PL: Tensor
    num_tokens_P: Tensor
    """Prompt and generated tokens, at least 1."""
    num_prompt_P: Tensor


@dataclass(slots=True, frozen=True)
class Penalties:
    """How strong, in float32 [P]. 1 is no repetition penalty, 0 no presence or frequency penalty."""

    repetition_P: Tensor
    presence_P: Tensor
    frequency_P: Tensor


def penalise(logits_RV: Tensor, rows_P: Tensor, history: History, penalties: Penalties) -> None:
    """Lower the logits of tokens that were there before; rows_P says in which rows.

    Repetition: over prompt and generated tokens, positive logits are divided, others multiplied (Keskar et al. 2019,
    section 4.1). Then over generated tokens alone: presence is subtracted once, frequency for each occurrence.
    """
    position_L = torch.arange(history.tokens_PL.shape[1], device=logits_RV.device)
    is_token_PL = position_L < history.num_tokens_P.unsqueeze(1)
    is_generated_PL = is_token_PL & (position_L >= history.num_prompt_P.unsqueeze(1))
    # Beyond a row's tokens its first one stands in: each place of a token gets the same value, however often written.
    ids_PL = torch.where(is_token_PL, history.tokens_PL, history.tokens_PL.narrow(1, 0, 1)).long()

    before_PV = logits_RV.index_select(0, rows_P)
    count_PV = torch.zeros_like(before_PV, dtype=torch.int32)
    count_PV.scatter_add_(1, ids_PL, is_generated_PL.int())
    count_PL = count_PV.gather(1, ids_PL)

    repetition_P1 = penalties.repetition_P.unsqueeze(1)
    logits_PL = before_PV.gather(1, ids_PL)
    logits_PL = torch.where(logits_PL > 0, logits_PL / repetition_P1, logits_PL * repetition_P1)
    logits_PL -= penalties.presence_P.unsqueeze(1) * (count_PL > 0)
    logits_PL -= penalties.frequency_P.unsqueeze(1) * count_PL
    logits_RV.index_put_((rows_P.unsqueeze(1), ids_PL), logits_PL)


def add_bias(logits_RV: Tensor, rows_P: Tensor, ids_PN: Tensor, bias_PN: Tensor) -> None:
    """Add `bias_PN` to the logits of tokens `ids_PN`; unused entries have bias 0."""
    logits_RV.index_put_((rows_P.unsqueeze(1), ids_PN), bias_PN, accumulate=True)


def hold_back(logits_RV: Tensor, rows_P: Tensor, ids_PN: Tensor) -> None:
    """Make tokens `ids_PN` impossible; unused entries repeat a used one."""
    logits_RV.index_put_((rows_P.unsqueeze(1), ids_PN), logits_RV.new_full((1, 1), -torch.inf))


def forbidding_table(device: torch.device) -> Tensor:
    """What each byte of a mask adds to eight logits, float32 [256, 8]: 0 where the bit is set, else -inf.

    A mask spread by looking its bytes up takes a twentieth of the time on a CPU that unpacking its bits takes.
    """
    byte_256_1, bit_8 = torch.arange(256).unsqueeze(1), torch.arange(8)
    return torch.where(((byte_256_1 >> bit_8) & 1).bool(), 0.0, -torch.inf).to(device)


def forbid(logits_RV: Tensor, rows_P: Tensor, allowed_PW: Tensor, table: Tensor) -> None:
    """Make all tokens impossible but those whose bit is set: bit i % 8 of byte i // 8 for token i, in uint8."""
    mask_PV = (
        table.index_select(0, allowed_PW.flatten().int()).view(len(allowed_PW), -1).narrow(1, 0, logits_RV.shape[1])
    )
    logits_RV.index_add_(0, rows_P, mask_PV)
