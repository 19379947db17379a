from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.text.tokenizer import Tokenizer

TEXTS = [
    "Once upon a time, there was a girl.",
    "👍🏽 thumbs, 👩‍👩‍👧 family, 🇩🇪🇫🇷 flags",
    "ภาษาไทย สวัสดีครับ",
    "two  spaces,\n\n\nlines\tand\ttabs  ",
    "日本語とEnglish混在",
    "",
]


def stream(tokenizer, ids, cuts=None, **options):
    """The pieces of text, for ids pushed one by one or in the given groups."""
    detokenizer = tokenizer.detokenizer(**options)
    groups = [[i] for i in ids] if cuts is None else split(ids, cuts)
    return [*(detokenizer.push(group) for group in groups), detokenizer.flush()]


def split(ids, cuts):
    borders = sorted({0, len(ids), *(cut for cut in cuts if cut <= len(ids))})
    return [ids[a:b] for a, b in pairwise(borders)]


@pytest.mark.parametrize("text", TEXTS)
def test_st03_no_chunk_holds_half_a_character(tokenizer: Tokenizer, text):
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = stream(tokenizer, ids, is_continuation=False)
    assert "\ufffd" not in "".join(pieces)
    assert "".join(pieces) == text


@given(text=st.text(max_size=30), cuts=st.sets(st.integers(0, 60)), data=st.data())
def test_st03_any_cut_of_the_tokens_gives_the_text_of_the_whole(tokenizer: Tokenizer, text, cuts, data):
    skip = data.draw(st.booleans())
    ids = tokenizer.encode(text)
    expected = tokenizer.decode(ids, skip_special_tokens=skip)
    assert "".join(stream(tokenizer, ids, cuts, skip_special_tokens=skip, is_continuation=False)) == expected
    assert expected == tokenizer._tokenizer.decode(ids, skip_special_tokens=skip)


@given(data=st.data(), cuts=st.sets(st.integers(0, 30)))
def test_st03_any_cut_of_any_tokens_gives_the_text_of_the_whole(tokenizer: Tokenizer, data, cuts):
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=20))
    whole = tokenizer.decode(ids, skip_special_tokens=False)
    pieces = stream(tokenizer, ids, cuts, skip_special_tokens=False, is_continuation=False)
    assert "".join(pieces) == whole
    library = tokenizer._tokenizer.decode(ids, skip_special_tokens=False)
    if "\ufffd" not in library:
        assert whole == library


def test_st03_a_character_cut_off_by_the_end_is_one_replacement_character_and_the_last(tokenizer: Tokenizer):
    thumb = [i for byte in "👍".encode() for i in byte_ids(tokenizer, byte)]
    for missing in (1, 2, 3):
        pieces = stream(tokenizer, tokenizer.encode("ok", add_special_tokens=False) + thumb[:-missing])
        assert "".join(pieces[:-1]).strip() == "ok"
        assert pieces[-1] == "\ufffd"


def byte_ids(tokenizer, byte):
    """The token that stands for one byte."""
    wanted = bytes([byte])
    return [next(i for i in range(tokenizer.vocab_size) if tokenizer.token_bytes(i) == wanted)]


def test_bytes_of_the_tokens_joined_are_the_text(tokenizer: Tokenizer):
    text = "Grüße 👍🏽 ok"
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert b"".join(map(tokenizer.token_bytes, ids)).decode().removeprefix(" ") == text
    assert tokenizer.token_text(byte_ids(tokenizer, 0xFF)[0]) == "\ufffd"


def test_skipped_special_tokens_leave_no_trace(tokenizer: Tokenizer):
    ids = tokenizer.encode("one", add_special_tokens=False)
    eos = tokenizer._tokenizer.token_to_id(tokenizer.eos_token)
    assert "".join(stream(tokenizer, [*ids, eos], is_continuation=False)) == "one"
    shown = stream(tokenizer, [*ids, eos], skip_special_tokens=False, is_continuation=False)
    assert "".join(shown) == "one" + tokenizer.eos_token


@pytest.mark.parametrize("kind", ["llama2", "mistral"])
def test_a_continuation_keeps_the_space_before_its_first_word(directory_of, kind):
    tokenizer = Tokenizer.load(directory_of(kind))
    ids = tokenizer.encode("there was", add_special_tokens=False)
    assert "".join(stream(tokenizer, ids)) == " there was"
    assert "".join(stream(tokenizer, ids, is_continuation=False)) == "there was"


@given(
    words=st.lists(
        st.sampled_from(["the", "dog", "doesn't", "mind", ",", "fox", "!", "123", "Lily", "park"]), max_size=12
    )
)
def test_other_decoders_stream_the_text_of_the_whole(directory_of, words):
    tokenizer = Tokenizer.load(directory_of("word_piece"))
    ids = tokenizer.encode(" ".join(words))
    pieces = stream(tokenizer, ids, is_continuation=False)
    assert "".join(pieces) == tokenizer.decode(ids) == tokenizer._tokenizer.decode(ids)


def test_other_decoders_keep_the_space_before_a_continuation(directory_of):
    tokenizer = Tokenizer.load(directory_of("word_piece"))
    assert "".join(stream(tokenizer, tokenizer.encode("the dog"))) == " the dog"


def test_ids_that_are_no_token_add_nothing(tokenizer: Tokenizer):
    known = len(tokenizer._bytes[0])
    assert "".join(stream(tokenizer, range(10**6, 10**6 + 100))) == ""
    assert len(tokenizer._bytes[0]) == known
