import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.text.tokenizer import InvalidText, Tokenizer, TokenizerError

TEXTS = [
    "",
    " ",
    "Hello world",
    "  leading and trailing  ",
    "line\nline\n\n\nline\r\n\ttab",
    "12345 + 678 = 13023!",
    "👍🏽 👩‍👩‍👧 ภาษาไทย 我爱北京天安门 é é",
    "don't  you'll   they've",
]


@pytest.fixture(scope="module")
def reference(directory):
    """transformers' own tokenizer for the same directory."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("add_special_tokens", [True, False])
def test_ids_equal_those_of_transformers(tokenizer: Tokenizer, reference, text, add_special_tokens):
    expected = reference.encode(text, add_special_tokens=add_special_tokens)
    assert tokenizer.encode(text, add_special_tokens) == expected


@given(text=st.text(max_size=40))
def test_ids_and_text_of_any_text_equal_those_of_transformers(tokenizer: Tokenizer, reference, text):
    ids = reference.encode(text)
    assert tokenizer.encode(text) == ids
    assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)


def test_special_tokens_equal_those_of_transformers(tokenizer: Tokenizer, reference):
    assert tokenizer.special_tokens == reference.special_tokens_map
    assert tokenizer.special_ids >= set(reference.all_special_ids)


def test_a_real_model_has_the_ids_and_text_of_transformers(stories260k):
    from transformers import AutoTokenizer

    reference, tokenizer = AutoTokenizer.from_pretrained(stories260k), Tokenizer.load(stories260k)
    for text in TEXTS:
        ids = reference.encode(text)
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)
    assert tokenizer.special_tokens == reference.special_tokens_map


def test_dt05_a_raw_prompt_has_one_bos_though_its_text_brings_one(tokenizer: Tokenizer):
    bos = tokenizer._tokenizer.token_to_id(tokenizer.bos_token)
    with_bos = tokenizer.encode(tokenizer.bos_token + "Hello")
    assert with_bos.count(bos) == 1
    assert with_bos[0] == bos


def test_many_texts_have_the_ids_of_each_alone(tokenizer: Tokenizer):
    assert tokenizer.encode_many(TEXTS) == [tokenizer.encode(text) for text in TEXTS]


@given(text=st.text("ab ü\n", max_size=12))
def test_a_continuation_adds_its_own_text_and_nothing_else(tokenizer: Tokenizer, text):
    ids = tokenizer.encode("Once upon", add_special_tokens=False) + tokenizer.encode_continuation(text)
    assert tokenizer.decode(ids) == "Once upon" + text


def test_threads_share_a_tokenizer(tokenizer: Tokenizer):
    expected = [tokenizer.encode(text) for text in TEXTS]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            assert list(pool.map(tokenizer.encode, TEXTS)) == expected


@given(text=st.text(max_size=60))
def test_en15_the_bound_on_tokens_is_never_above_their_number(tokenizer: Tokenizer, text):
    assert tokenizer.min_num_tokens(text) <= len(tokenizer.encode(text, add_special_tokens=False))


def test_en15_hopelessly_long_text_is_known_as_such_without_tokenizing(tokenizer: Tokenizer):
    assert tokenizer.min_num_tokens("a" * 27_000_000) > 100_000


def test_en15_there_is_no_bound_where_a_token_can_stand_for_any_length(directory_of):
    assert Tokenizer.load(directory_of("word_piece")).min_num_tokens("a" * 1000) == 0


@pytest.mark.parametrize("text", ["\ud800", "before \udfff after"])
def test_in11_a_lone_surrogate_is_refused(tokenizer: Tokenizer, text):
    with pytest.raises(InvalidText, match="surrogate"):
        tokenizer.encode(text)


def test_tokens_that_only_the_config_lists_are_added(directory, tmp_path):
    from transformers import AutoTokenizer

    copy = shutil.copytree(directory, tmp_path / "model")
    config = json.loads((copy / "tokenizer_config.json").read_text())
    config |= {"pad_token": {"content": "<pad>", "__type": "AddedToken"}, "extra_special_tokens": ["<|extra|>"]}
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    reference, tokenizer = AutoTokenizer.from_pretrained(copy), Tokenizer.load(copy)
    text = "a <pad> b <|extra|> c"
    assert sorted(tokenizer.encode(text)) == sorted(reference.encode(text))
    assert tokenizer.decode(tokenizer.encode(text)) == reference.decode(
        reference.encode(text), skip_special_tokens=True
    )
    assert tokenizer.special_tokens["pad_token"] == "<pad>"


def test_a_directory_without_tokenizer_json_is_converted_from_its_older_files(directory_of, tmp_path):
    made = json.loads((directory_of("gpt2") / "tokenizer.json").read_text())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(made["vocab"] | {"<|endoftext|>": len(made["vocab"])}))
    (tmp_path / "merges.txt").write_text("\n".join(" ".join(merge) for merge in made["merges"]))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    converted, original = Tokenizer.load(tmp_path), Tokenizer.load(directory_of("gpt2"))
    for text in TEXTS:
        assert converted.encode(text) == original.encode(text)
    assert converted.eos_token == "<|endoftext|>"


def test_an_empty_directory_is_refused_with_its_name(tmp_path):
    with pytest.raises(TokenizerError, match=str(tmp_path)):
        Tokenizer.load(tmp_path)


def test_a_broken_file_is_refused_with_its_name(tmp_path):
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)


def test_ld04_code_named_in_the_config_is_not_loaded(directory, tmp_path):
    copy = shutil.copytree(directory, tmp_path / "model")
    auto_map = {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    config = json.loads((copy / "tokenizer_config.json").read_text())
    (copy / "tokenizer_config.json").write_text(json.dumps(config | auto_map))
    (copy / "evil.py").write_text(f"open({str(tmp_path / 'touched')!r}, 'w')")
    assert Tokenizer.load(copy).encode("x")
    (copy / "tokenizer.json").unlink()
    with pytest.raises(TokenizerError):
        Tokenizer.load(copy)
    assert not (tmp_path / "touched").exists()
