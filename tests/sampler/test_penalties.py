"""Penalties, bias and held back tokens equal a plain reference in numpy."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.penalties import History, Penalties, add_bias, hold_back, penalise

VOCAB_SIZE = 12
token_lists = st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=20)
sequences = st.tuples(
    token_lists.filter(bool),
    token_lists,
    st.floats(0.01, 100),
    st.floats(-2, 2),
    st.floats(-2, 2),
)


def penalised_by_reference(logits, prompt, generated, repetition, presence, frequency):
    result = logits.astype(np.float64)
    for token in {*prompt, *generated}:
        result[token] = result[token] / repetition if result[token] > 0 else result[token] * repetition
    for token in set(generated):
        result[token] -= presence + frequency * generated.count(token)
    return result


def penalise_rows(logits: torch.Tensor, rows: list[int], asked: list[tuple]) -> None:
    tokens = [[*prompt, *generated] for prompt, generated, *_ in asked]
    longest = max(map(len, tokens))
    filler = [VOCAB_SIZE + 1, -2]  # what other sequences left in the table, or worse
    table = torch.tensor(
        [row + [filler[i % 2] for i in range(longest - len(row))] for row in tokens], dtype=torch.int32
    )
    history = History(table, torch.tensor([len(row) for row in tokens]), torch.tensor([len(p) for p, *_ in asked]))
    strengths = torch.tensor([row[2:] for row in asked], dtype=torch.float32)
    penalise(logits, torch.tensor(rows), history, Penalties(*strengths.unbind(1)))


@given(st.integers(0, 2**32 - 1), st.lists(sequences, min_size=1, max_size=4))
@settings(max_examples=200, deadline=None)
def test_dt04_penalties_equal_the_reference_and_leave_other_rows_alone(seed, asked):
    before = np.random.default_rng(seed).normal(size=(len(asked) + 2, VOCAB_SIZE)).astype(np.float32) * 5
    logits, rows = torch.from_numpy(before.copy()), list(range(1, len(asked) + 1))
    penalise_rows(logits, rows, asked)
    for row, sequence in zip(rows, asked, strict=True):
        expected = penalised_by_reference(before[row], *sequence)
        np.testing.assert_allclose(logits[row].numpy(), expected, rtol=1e-6, atol=1e-5)
    assert logits[0].tolist() == before[0].tolist()
    assert logits[-1].tolist() == before[-1].tolist()


def test_dt04_frequency_and_presence_leave_the_prompt_and_repetition_does_not():
    twice_in_prompt, generated_thrice, absent = 3, 4, 5
    sequence = ([twice_in_prompt, 1, twice_in_prompt], [generated_thrice] * 3)
    logits = torch.full((1, VOCAB_SIZE), 2.0)
    penalise_rows(logits, [0], [(*sequence, 1.0, 0.5, 0.25)])
    assert logits[0, [twice_in_prompt, generated_thrice, absent]].tolist() == [2.0, 2.0 - 0.5 - 0.75, 2.0]
    logits = torch.tensor([[2.0, -2.0] * (VOCAB_SIZE // 2)])
    penalise_rows(logits, [0], [(*sequence, 2.0, 0.0, 0.0)])
    assert logits[0, [twice_in_prompt, generated_thrice, absent]].tolist() == [-4.0, 1.0, -2.0]


def test_ten_thousand_occurrences_are_counted_exactly():
    logits = torch.zeros(1, VOCAB_SIZE)
    penalise_rows(logits, [0], [([1], [2] * 10_000, 1.0, 0.0, 0.1)])
    np.testing.assert_allclose(logits[0, 2], -1000.0, rtol=1e-6)


def test_bias_is_added_and_unused_entries_add_nothing():
    logits = torch.zeros(3, VOCAB_SIZE)
    add_bias(logits, torch.tensor([2, 0]), torch.tensor([[4, 0], [0, 11]]), torch.tensor([[7.5, 0.0], [-100.0, 100.0]]))
    expected = torch.zeros(3, VOCAB_SIZE)
    expected[2, 4], expected[0, 0], expected[0, 11] = 7.5, -100.0, 100.0
    assert torch.equal(logits, expected)


def test_held_back_tokens_are_impossible():
    logits = torch.zeros(2, VOCAB_SIZE)
    hold_back(logits, torch.tensor([1]), torch.tensor([[3, 9, 3]]))
    assert logits.isinf().nonzero().tolist() == [[1, 3], [1, 9]]
