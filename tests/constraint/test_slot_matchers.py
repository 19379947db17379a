"""Each step's masks are those of the sequences that have the slots now."""

import numpy as np

from model.batch import NO_TOKEN, NOT_SAMPLED, Join, SamplingParams, StepOutput
from model.constraint import Constraint
from model.slot_matchers import SlotMatchers, take
from tests.constraint.walks import BYTES, compiled

A, B = BYTES.tokens.index(b"a"), BYTES.tokens.index(b"b")
VOCAB_SIZE = len(BYTES.tokens)


def join(slot: int, constraint: Constraint | None, generated: tuple[int, ...] = ()) -> Join:
    return Join(slot, [B, B, *generated], 2, 0, SamplingParams(max_tokens=9), constraint)


def allowed_by_row(matchers: SlotMatchers, slots: list[int]) -> dict[int, set[int]]:
    masks = matchers.masks(slots)
    if masks is None:
        return {}
    bits = np.unpackbits(masks.bits_CW, axis=1, count=VOCAB_SIZE, bitorder="little")
    return {int(row): set(np.flatnonzero(row_bits).tolist()) for row, row_bits in zip(masks.rows_C, bits, strict=True)}


def test_only_rows_with_a_grammar_have_a_mask() -> None:
    matchers = SlotMatchers(VOCAB_SIZE)
    assert matchers.masks([0, 1]) is None
    matchers.join([join(0, None), join(3, compiled("regex", "aa")), join(5, compiled("regex", "b"))])
    assert allowed_by_row(matchers, [5, 0, 3]) == {0: {B}, 2: {A}}
    assert allowed_by_row(matchers, [0]) == {}


def test_is04_the_next_sequence_of_a_slot_is_free_of_the_last_one_s_grammar() -> None:
    matchers = SlotMatchers(VOCAB_SIZE)
    matchers.join([join(0, compiled("regex", "a+"))])
    assert allowed_by_row(matchers, [0]) == {0: {A}}
    matchers.join([join(0, None)])
    assert matchers.masks([0]) is None
    matchers.join([join(0, compiled("regex", "b"))])
    assert allowed_by_row(matchers, [0]) == {0: {B}}


def test_a_sequence_that_joins_again_goes_on_behind_what_it_has_written() -> None:
    matchers = SlotMatchers(VOCAB_SIZE)
    matchers.join([join(1, compiled("regex", "aab"), (A, A))])
    assert allowed_by_row(matchers, [1]) == {0: {B}}


def test_gr09_the_token_after_which_nothing_follows_completes_its_row() -> None:
    matchers = SlotMatchers(VOCAB_SIZE)
    matchers.join([join(0, compiled("regex", "ab")), join(1, None), join(2, compiled("regex", "a"))])
    output = StepOutput(token_ids=[A, A, A])
    take(matchers.of([0, 1, 2]), output)
    assert (output.token_ids, output.completed) == ([A, A, A], {2})
    output = StepOutput(token_ids=[B])
    take(matchers.of([0]), output)
    assert output.completed == {0}


def test_rows_that_drew_nothing_go_on_nowhere() -> None:
    matchers = SlotMatchers(VOCAB_SIZE)
    matchers.join([join(0, compiled("regex", "ab"))])
    for token_id in (NOT_SAMPLED, NO_TOKEN):
        take(matchers.of([0]), StepOutput(token_ids=[token_id]))
    assert allowed_by_row(matchers, [0]) == {0: {A}}


def test_gr09_a_rejected_token_ends_its_own_row_alone() -> None:
    matchers = SlotMatchers(VOCAB_SIZE)
    matchers.join([join(0, compiled("regex", "aa")), join(1, compiled("regex", "aa"))])
    output = StepOutput(token_ids=[B, A])
    take(matchers.of([0, 1]), output)
    assert (output.token_ids, output.completed) == ([NO_TOKEN, A], set())
    assert allowed_by_row(matchers, [1]) == {0: {A}}


def test_a_beginning_that_the_grammar_forbids_allows_nothing() -> None:
    matchers = SlotMatchers(VOCAB_SIZE)
    matchers.join([join(0, compiled("regex", "a"), (B,)), join(1, compiled("regex", "a"))])
    assert allowed_by_row(matchers, [0, 1]) == {0: set(), 1: {A}}
    matchers.join([join(0, None)])
    assert matchers.masks([0]) is None


def test_listed_tokens_are_a_mask_of_their_own_until_the_slot_is_taken_over() -> None:
    matchers = SlotMatchers(VOCAB_SIZE)
    params = SamplingParams(max_tokens=9, allowed_token_ids=(A, B, A, VOCAB_SIZE - 1))
    matchers.join([Join(1, [B], 1, 0, params), join(2, compiled("regex", "a"))])
    assert allowed_by_row(matchers, [0, 1, 2]) == {1: {A, B, VOCAB_SIZE - 1}, 2: {A}}
    take(matchers.of([1]), StepOutput(token_ids=[A]))
    assert allowed_by_row(matchers, [1]) == {0: {A, B, VOCAB_SIZE - 1}}
    matchers.join([join(1, None)])
    assert matchers.masks([1]) is None
