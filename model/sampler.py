"""Draws the next token of many sequences at once, each by its own parameters."""

# R rows of the step, of which P penalised, D drawn, Q ask for log-probabilities;
# V vocabulary, S slots, L positions of a slot, K most likely tokens listed

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.batch import NO_TOKEN, Join
from model.penalties import History, Penalties, add_bias, forbid, forbidding_table, hold_back, penalise
from model.random_draw import draw, uniforms
from model.slot_matchers import TokenMasks
from model.stream import to_device
from model.truncation import min_p_gap, surprise_gaps, top_k_gap, top_p_gap

LOGPROB_FLOOR = -9999.0
"""Stands for a probability of zero, whose logarithm is no JSON number."""

MAX_LOGIT_BIAS = 300
"""Most entries of one sequence's logit bias."""
MAX_STOP_TOKEN_IDS = 128

# Below this a temperature is 0: differences of logits divided by it leave the range of float32.
GREEDY_TEMPERATURE = 1e-5

# The most likely token of a row weighs this much, so that V weights add up in 63 bits for any vocabulary below 2^23.
# A token is out of reach when it is 2^40 times less likely; float32 tells no more than 2^24 apart.
_FULL_WEIGHT = 2.0**40

# One slot's parameters. The last two change with each step and are filled in for its rows alone.
_COLUMNS = np.dtype(
    [
        ("slot", np.int64),
        ("seed", np.uint64),
        ("choice", np.uint64),
        ("num_prompt", np.int64),
        ("min_tokens", np.int64),
        ("temperature", np.float64),
        ("top_k", np.int64),
        ("top_p", np.float64),
        ("min_p", np.float64),
        ("typical_p", np.float64),
        ("repetition", np.float64),
        ("presence", np.float64),
        ("frequency", np.float64),
        ("num_top", np.int64),  # -1: no log-probabilities wanted
        ("num_bias", np.int64),
        ("num_held", np.int64),
        ("num_tokens", np.int64),
        ("num_generated", np.int64),
    ]
)

Rows = NDArray[np.void]
"""Of the dtype above, one record for each row of the step."""


@dataclass(slots=True, frozen=True)
class Draws:
    """What `sample` drew, on the device, one entry for each row; log-probabilities are None when no row asked.

    They hold for the rows that asked: `top_ids_RK` and `top_RK` list as many tokens as the most demanding row wants.
    """

    token_ids_R: Tensor
    """int64; NO_TOKEN for rows whose logits hold a NaN or allow no token."""
    chosen_logprob_R: Tensor | None = None
    top_ids_RK: Tensor | None = None
    top_RK: Tensor | None = None


class Sampler:
    """Knows the sampling parameters of each slot and draws by them.

    The parameters live on the host, in columns: a step needs a few numbers a row, and sends them with the row's random
    number in one copy. Host and device never wait for each other here.
    """

    def __init__(self, max_num_seqs: int, vocab_size: int, eos_token_ids: Sequence[int], device: torch.device) -> None:
        self._vocab_size = vocab_size
        self._eos_token_ids = tuple(eos_token_ids)
        self._device = device
        self._forbidding_table = forbidding_table(device)
        self._columns = np.zeros(max_num_seqs, dtype=_COLUMNS)
        self._bias_ids = np.zeros((max_num_seqs, MAX_LOGIT_BIAS), dtype=np.int64)
        self._bias = np.zeros((max_num_seqs, MAX_LOGIT_BIAS), dtype=np.float32)
        self._held_ids = np.zeros((max_num_seqs, MAX_STOP_TOKEN_IDS + len(self._eos_token_ids)), dtype=np.int64)

    def join(self, joins: Sequence[Join]) -> None:
        """Set the parameters of these slots, whole: nothing of a slot's previous sequence stays."""
        for join in joins:
            slot, params = join.slot, join.params
            held = (*self._eos_token_ids, *params.stop_token_ids)
            self._columns[slot] = (
                slot,
                params.seed & 0xFFFF_FFFF_FFFF_FFFF,
                join.choice,
                join.num_prompt,
                params.min_tokens,
                params.temperature,
                params.top_k if 0 < params.top_k < self._vocab_size else self._vocab_size,
                params.top_p,
                params.min_p,
                params.typical_p,
                params.repetition_penalty,
                params.presence_penalty,
                params.frequency_penalty,
                -1 if params.logprobs is None else min(params.logprobs, self._vocab_size),
                len(params.logit_bias),
                len(held),
                0,
                0,
            )
            self._bias_ids[slot] = self._bias[slot] = 0
            for entry, (token_id, bias) in enumerate(params.logit_bias):
                self._bias_ids[slot, entry], self._bias[slot, entry] = token_id, bias
            self._held_ids[slot] = held[0] if held else 0
            self._held_ids[slot, : len(held)] = held

    def sample(
        self,
        logits_RV: Tensor,
        slots: Sequence[int],
        num_tokens: Sequence[int],
        tokens_SL: Tensor,
        masks: TokenMasks | None = None,
    ) -> Draws:
        """Draw one token for each row r, of the sequence in `slots[r]`, which has `num_tokens[r]` tokens so far.

        logits_RV float32, contiguous, is overwritten. tokens_SL int32: all tokens by slot. Order: log-probabilities of
        the logits as they come; penalties, bias, tokens that `masks` forbid, tokens held back; then the most likely
        token (the lowest id of equal ones) where the temperature is 0, else temperature, top-k, top-p, min-p,
        typical-p and a draw.
        """
        rows = self._rows(slots, num_tokens)
        asking = np.flatnonzero(rows["num_top"] >= 0)
        untouched_QV = logits_RV.index_select(0, self._to_device(asking)) if asking.size else None
        self._shape(logits_RV, rows, tokens_SL, masks)
        token_ids_R = self._choose(logits_RV, rows)
        if untouched_QV is None:
            return Draws(token_ids_R)
        asking_Q = self._to_device(asking)
        listed = token_logprobs(untouched_QV, token_ids_R.index_select(0, asking_Q), int(rows["num_top"].max()))
        chosen_R, top_ids_RK, top_RK = (
            part_Q.new_zeros(len(rows), *part_Q.shape[1:]).index_copy_(0, asking_Q, part_Q) for part_Q in listed
        )
        return Draws(token_ids_R, chosen_R, top_ids_RK, top_RK)

    def _rows(self, slots: Sequence[int], num_tokens: Sequence[int]) -> Rows:
        rows: Rows = self._columns[np.asarray(slots, dtype=np.int64)]
        rows["num_tokens"] = num_tokens
        rows["num_generated"] = rows["num_tokens"] - rows["num_prompt"]
        return rows

    def _shape(self, logits_RV: Tensor, rows: Rows, tokens_SL: Tensor, masks: TokenMasks | None) -> None:
        """Penalties, bias, held back and forbidden tokens, in place, for the rows that have them."""
        is_penalised = (rows["repetition"] != 1) | (rows["presence"] != 0) | (rows["frequency"] != 0)
        if is_penalised.any():
            penalised = np.flatnonzero(is_penalised)
            self._penalise(logits_RV, penalised, rows[penalised], tokens_SL)
        if rows["num_bias"].any():
            biased = np.flatnonzero(rows["num_bias"])
            entries = (rows["slot"][biased], slice(rows["num_bias"].max()))
            ids, bias = self._to_device(self._bias_ids[entries]), self._to_device(self._bias[entries])
            add_bias(logits_RV, self._to_device(biased), ids, bias)
        is_held = (rows["num_generated"] < rows["min_tokens"]) & (rows["num_held"] > 0)
        if masks is not None:
            self._forbid(logits_RV, masks)
            if is_held.any():
                self._let_end(is_held, rows, masks)
        if is_held.any():
            held = np.flatnonzero(is_held)
            entries = (rows["slot"][held], slice(rows["num_held"][held].max()))
            hold_back(logits_RV, self._to_device(held), self._to_device(self._held_ids[entries]))

    def _forbid(self, logits_RV: Tensor, masks: TokenMasks) -> None:
        """Tokens that the masks don't allow, in place."""
        rows_C, bits_CW = self._to_device(masks.rows_C), self._to_device(masks.bits_CW)
        forbid(logits_RV, rows_C, bits_CW, self._forbidding_table)

    def _let_end(self, is_held: NDArray[np.bool_], rows: Rows, masks: TokenMasks) -> None:
        """Hold nothing back in rows whose grammar allows nothing else."""
        for row, bits_W in zip(masks.rows_C, masks.bits_CW, strict=True):
            if is_held[row]:
                others_W, held = bits_W.copy(), self._held_ids[rows["slot"][row]]
                np.bitwise_and.at(others_W, held >> 3, ~(1 << (held & 7)).astype(np.uint8))
                is_held[row] = others_W.any()

    def _penalise(self, logits_RV: Tensor, penalised: NDArray[np.int64], rows: Rows, tokens_SL: Tensor) -> None:
        counts = np.stack([penalised, rows["slot"], rows["num_tokens"], rows["num_prompt"]])
        rows_P, slots_P, num_tokens_P, num_prompt_P = self._to_device(counts).unbind()
        strengths = np.stack([rows["repetition"], rows["presence"], rows["frequency"]]).astype(np.float32)
        tokens_PL = tokens_SL.narrow(1, 0, int(rows["num_tokens"].max())).index_select(0, slots_P)
        history = History(tokens_PL, num_tokens_P, num_prompt_P)
        penalise(logits_RV, rows_P, history, Penalties(*self._to_device(strengths).unbind()))

    def _choose(self, logits_RV: Tensor, rows: Rows) -> Tensor:
        """The token of each row: the most likely one, or a draw."""
        max_R = logits_RV.amax(dim=1)
        drawn = np.flatnonzero(rows["temperature"] >= GREEDY_TEMPERATURE)
        if drawn.size == 0:
            token_ids_R = logits_RV.argmax(dim=1)
        elif drawn.size == len(rows):
            token_ids_R = self._draw(logits_RV, max_R, rows)
        else:
            token_ids_R, drawn_D = logits_RV.argmax(dim=1), self._to_device(drawn)
            logits_DV, max_D = logits_RV.index_select(0, drawn_D), max_R.index_select(0, drawn_D)
            token_ids_R.index_copy_(0, drawn_D, self._draw(logits_DV, max_D, rows[drawn]))
        # The maximum is NaN when any logit is, and NaN is not above anything.
        return torch.where(max_R > -torch.inf, token_ids_R, NO_TOKEN)

    def _draw(self, logits_RV: Tensor, max_R: Tensor, rows: Rows) -> Tensor:
        """Draw from the softmax of logits / temperature, truncated. Overwrites the logits."""
        uniform = uniforms(rows["seed"], rows["choice"], rows["num_generated"].astype(np.uint64))
        columns = np.stack([uniform, rows["temperature"]])
        uniform_R, temperature_R = self._to_device(columns).unbind()
        gaps_RV = torch.sub(max_R.unsqueeze(1), logits_RV, out=logits_RV)
        gaps_RV.div_(temperature_R.float().unsqueeze(1))
        # An infinite maximum minus itself is NaN: that token is the most likely one. Rows of NaN get harmless numbers.
        gaps_RV.nan_to_num_(nan=0.0, posinf=torch.inf)
        weights_RV = gaps_RV.neg().exp_().mul_(_FULL_WEIGHT).long()
        self._truncate(gaps_RV, weights_RV, rows)
        return draw(weights_RV, uniform_R)

    def _truncate(self, gaps_RV: Tensor, weights_RV: Tensor, rows: Rows) -> None:
        """Set the weights of tokens that top-k, then top-p, then min-p, then typical-p exclude to 0."""
        if (rows["top_k"] < self._vocab_size).any():
            top_k_R = self._to_device(np.ascontiguousarray(rows["top_k"]))
            _cut(gaps_RV, weights_RV, top_k_gap(gaps_RV, top_k_R))
        if (rows["top_p"] < 1).any():
            top_p_R = self._to_device(np.ascontiguousarray(rows["top_p"]))
            _cut(gaps_RV, weights_RV, top_p_gap(gaps_RV, weights_RV, top_p_R))
        if (rows["min_p"] > 0).any():
            min_p_R = self._to_device(np.ascontiguousarray(rows["min_p"]))
            _cut(gaps_RV, weights_RV, min_p_gap(min_p_R).float())
        if (rows["typical_p"] < 1).any():
            typical_p_R = self._to_device(np.ascontiguousarray(rows["typical_p"]))
            surprise_RV = surprise_gaps(gaps_RV, weights_RV)
            _cut(surprise_RV, weights_RV, top_p_gap(surprise_RV, weights_RV, typical_p_R))

    def _to_device(self, array: NDArray[np.generic]) -> Tensor:
        return to_device(array, self._device)


def choice_columns(rows: Rows) -> dict[str, NDArray[np.generic]]:
    """What kernels need to know of each row to choose its token, in the order of their parameters.

    A temperature of 0 is that of rows that take the most likely token, `top_k` the vocabulary's size that of rows
    without; `min_p_gap` is the largest gap that min-p leaves (see model/truncation.py); `uniform` the row's number.
    """
    is_greedy = rows["temperature"] < GREEDY_TEMPERATURE
    uniform = np.zeros(len(rows))
    if not is_greedy.all():
        uniform = uniforms(rows["seed"], rows["choice"], rows["num_generated"].astype(np.uint64))
    with np.errstate(divide="ignore"):  # infinite where there's no min_p
        min_p_gap = -np.log(rows["min_p"])
    return {
        "temperature": np.where(is_greedy, 0, rows["temperature"]).astype(np.float32),
        "top_k": np.ascontiguousarray(rows["top_k"]),
        "top_p": np.ascontiguousarray(rows["top_p"]),
        "min_p_gap": min_p_gap.astype(np.float32),
        "typical_p": np.ascontiguousarray(rows["typical_p"]),
        "uniform": uniform,
    }


def _cut(gaps_RV: Tensor, weights_RV: Tensor, max_gap_R: Tensor) -> None:
    weights_RV.mul_(gaps_RV <= max_gap_R.unsqueeze(1))


def token_logprobs(logits_RV: Tensor, chosen_R: Tensor, num_top: int) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probability [R] of the chosen tokens, and ids and log-probabilities [R, num_top] of the most likely ones.

    logits_RV float32, as the model gave them; chosen_R int64, where NO_TOKEN gets an arbitrary one. Most likely first,
    equal ones by id, so neither the device nor the number asked for changes what is listed. All numbers are finite.
    """
    logprobs_RV = logits_RV.log_softmax(dim=1)
    chosen_R1 = chosen_R.clamp(min=0).unsqueeze(1)
    chosen_logprob_R = logprobs_RV.gather(1, chosen_R1).squeeze(1)
    top_ids_RK = _most_likely(logits_RV, num_top)
    return _finite(chosen_logprob_R), top_ids_RK, _finite(logprobs_RV.gather(1, top_ids_RK))


def _most_likely(logits_RV: Tensor, num_top: int) -> Tensor:
    """Ids [R, num_top] in the order of (logit, lowest id first), for which topk alone gives no promise."""
    if num_top == 0:
        return torch.empty(len(logits_RV), 0, dtype=torch.int64, device=logits_RV.device)
    # Adding 0 turns -0 into 0, which it equals. The magnitude bits of negative floats count downwards: flip them.
    bits_RV = logits_RV.add(0.0).view(torch.int32)
    ordered_RV = bits_RV ^ ((bits_RV >> 31) & 0x7FFF_FFFF)
    keys_RV = (ordered_RV.long() << 32) - torch.arange(logits_RV.shape[1], device=logits_RV.device)
    return keys_RV.topk(num_top, dim=1).indices


def _finite(logprobs: Tensor) -> Tensor:
    return logprobs.nan_to_num(nan=LOGPROB_FLOOR, neginf=LOGPROB_FLOOR).clamp(min=LOGPROB_FLOOR)
