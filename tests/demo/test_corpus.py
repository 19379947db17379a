"""The training text follows from its seed and is well formed."""

import json
from itertools import islice, pairwise
from random import Random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.demo.corpus import BEGIN, END_OF_TEXT, END_OF_TURN, TEXT, Document, documents
from model.demo.grammar import expand
from model.demo.packing import IGNORED, Encoded, packed
from model.demo.stories import Storyteller

few = settings(max_examples=15, deadline=None)  # each example reads the templates anew
SEEDS = st.integers(min_value=0, max_value=2**32)
MIXTURE = {"story": 3, "chat": 5, "note": 1, "names": 1, "wink": 1}
"""All kinds but those in which braces and brackets are no marks of a template."""


def corpus(seed: int, count: int) -> list[tuple[str, Document]]:
    return list(islice(documents(seed, MIXTURE, max_exchanges=6), count))


@few
@given(SEEDS)
def test_same_seed_gives_the_same_documents(seed: int) -> None:
    assert corpus(seed, 8) == corpus(seed, 8)


def test_other_seeds_give_other_stories() -> None:
    stories = [segments for seed in range(4) for kind, segments in corpus(seed, 100) if kind == "story"]
    assert len({story[1].text for story in stories}) == len(stories) > 50


@few
@given(SEEDS)
def test_no_template_marks_are_left_in_the_text(seed: int) -> None:
    for _, document in corpus(seed, 8):
        text = "".join(segment.text for segment in document)
        text = text.replace("<|", "").replace("|>", "")
        assert not set(text) & set("{}[]|\\")


@few
@given(SEEDS)
def test_every_document_begins_and_ends_with_its_marks(seed: int) -> None:
    for kind, document in corpus(seed, 8):
        text = "".join(segment.text for segment in document)
        assert text.startswith(BEGIN)
        assert text.endswith(END_OF_TURN + "\n" if kind == "chat" else END_OF_TEXT)


@few
@given(SEEDS)
def test_only_answers_and_prose_are_learned(seed: int) -> None:
    for kind, document in corpus(seed, 8):
        for before, segment in pairwise(document):
            assert segment.is_learned == (kind != "chat" or before.text.endswith("assistant\n"))


def test_mixture_decides_the_kinds() -> None:
    assert {kind for kind, _ in islice(documents(0, {"chat": 1}, max_exchanges=1), 20)} == {"chat"}


@few
@given(SEEDS)
def test_answers_of_a_form_are_json_spaced_as_python_does_it(seed: int) -> None:
    for _, document in islice(documents(seed, {"form": 1}, max_exchanges=1), 8):
        [written] = [segment.text.removesuffix(END_OF_TURN) for segment in document if segment.is_learned]
        assert written == json.dumps(json.loads(written))


@few
@given(SEEDS)
def test_hero_and_friend_are_two(seed: int) -> None:
    story = Storyteller(TEXT).story(Random(seed))
    assert story["hero"] != story["friend"]
    assert story["hero"] in story["story"]


def test_choices_nest_and_articles_agree() -> None:
    drawn = {expand("[a {x}|a [red|old] {x}|{X}]", {"x": "apple"}, Random(seed)) for seed in range(40)}
    assert drawn == {"an apple", "a red apple", "an old apple", "Apple"}


def test_slot_without_a_value_is_an_error() -> None:
    with pytest.raises(KeyError):
        expand("{nobody}", {}, Random(0))


@given(st.lists(st.integers(min_value=1, max_value=24), min_size=100, max_size=120))
def test_packed_rows_keep_documents_whole_and_apart(lengths: list[int]) -> None:
    made = (Encoded([number] * length, [number] * length) for number, length in enumerate(lengths, start=1))
    rows = next(packed(made, num_rows=2, length=20))
    for tokens, labels, positions, mask in zip(
        rows.token_ids_BT, rows.labels_BT, rows.positions_BT, rows.mask_B1TT[:, 0], strict=True
    ):
        is_real = labels != IGNORED
        is_same = (tokens[:, None] == tokens[None, :]) & is_real[:, None] & is_real[None, :]
        assert torch.equal(mask[is_real], (is_same & torch.ones(20, 20, dtype=torch.bool).tril())[is_real])
        for number in tokens[is_real].unique().tolist():
            own = positions[tokens == number]
            assert own.tolist() == list(range(min(lengths[number - 1], 20)))
