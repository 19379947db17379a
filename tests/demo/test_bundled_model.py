"""The bundled model keeps what its card says."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

import model.demo
from model.demo.corpus import BEGIN, END_OF_TEXT, END_OF_TURN, TURN, chat

BUNDLED = Path(model.demo.__path__[0]) / "bundled"
MAX_BYTES = 8 * 2**20

RAW = Tokenizer.from_file(str(BUNDLED / "tokenizer.json"))


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return AutoTokenizer.from_pretrained(BUNDLED)


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    return AutoModelForCausalLM.from_pretrained(BUNDLED, dtype=torch.float32).eval()


def config() -> dict[str, object]:
    return json.loads((BUNDLED / "config.json").read_text())


def greedy(llama: LlamaForCausalLM, ids: list[int], max_new_tokens: int = 500) -> list[int]:
    prompt = torch.tensor([ids])
    output = llama.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        top_p=None,
        temperature=None,
        max_new_tokens=max_new_tokens,
    )
    return output[0, len(ids) :].tolist()


def answer(llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, *words: str) -> str:
    """The greedy answer to a talk of user and assistant turns by turns; it must end by itself."""
    roles = ("user", "assistant")
    turns = [{"role": roles[i % 2], "content": text} for i, text in enumerate(words)]
    ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
    new = greedy(llama, ids)
    assert new[-1] == tokenizer.eos_token_id
    return tokenizer.decode(new[:-1])


@given(st.text())
def test_no_text_is_lost_in_the_tokenizer(text: str) -> None:
    ids = RAW.encode(text, add_special_tokens=False).ids
    if not any(token in text for token in (BEGIN, TURN, END_OF_TURN, END_OF_TEXT)):
        assert RAW.decode(ids, skip_special_tokens=False) == text


@given(st.binary(min_size=1))
def test_every_byte_has_a_token(data: bytes) -> None:
    text = data.decode("latin-1")
    assert RAW.decode(RAW.encode(text, add_special_tokens=False).ids) == text
    assert all(token < RAW.get_vocab_size() for token in RAW.encode(text).ids)


@given(st.text(st.characters(codec="latin-1", categories=["L"]), min_size=1))
def test_a_word_is_cut_alike_after_a_space_and_in_quotes(word: str) -> None:
    spaced, quoted = (RAW.encode(text, add_special_tokens=False).tokens[1:] for text in (f"a {word}", f'"{word}'))
    first, *rest = quoted
    assert spaced in (["Ġ", first, *rest], [f"Ġ{first}", *rest])


def test_raw_text_starts_with_the_begin_token(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer("Once")["input_ids"][0] == tokenizer.bos_token_id == config()["bos_token_id"]


def test_template_renders_what_the_model_was_trained_on(tokenizer: PreTrainedTokenizerFast) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "tool", "content": "7"},
    ]
    trained = "".join(segment.text for segment in chat(turns))
    assert tokenizer.apply_chat_template(turns, tokenize=False) == trained
    prompted = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert prompted == trained + TURN + "assistant\n"


def test_template_takes_text_parts_and_the_developer_role(tokenizer: PreTrainedTokenizerFast) -> None:
    parts = [{"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]}]
    plain = [{"role": "system", "content": "Be brief."}]
    assert tokenizer.apply_chat_template(parts, tokenize=False) == tokenizer.apply_chat_template(plain, tokenize=False)


def test_template_refuses_an_unknown_role(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(Exception, match="unknown role 'pirate'"):
        tokenizer.apply_chat_template([{"role": "pirate", "content": "Arr"}], tokenize=False)


def test_config_describes_a_small_llama_with_grouped_queries(llama: LlamaForCausalLM) -> None:
    fields = config()
    assert fields["architectures"] == ["LlamaForCausalLM"]
    assert fields["tie_word_embeddings"] is True
    assert fields["dtype"] == "bfloat16"
    assert fields["rope_parameters"] == {"rope_theta": 10000.0, "rope_type": "default"}
    assert fields["num_key_value_heads"] < fields["num_attention_heads"]
    assert fields["max_position_embeddings"] >= 2048
    assert fields["vocab_size"] == RAW.get_vocab_size()
    assert 1e6 < llama.num_parameters() < 3e6


def test_both_end_tokens_end_a_generation(tokenizer: PreTrainedTokenizerFast) -> None:
    ends = [tokenizer.convert_tokens_to_ids(token) for token in (END_OF_TURN, END_OF_TEXT)]
    assert config()["eos_token_id"] == ends
    assert json.loads((BUNDLED / "generation_config.json").read_text())["eos_token_id"] == ends


def test_bundle_is_small() -> None:
    assert sum(path.stat().st_size for path in BUNDLED.iterdir()) < MAX_BYTES


def test_card_names_text_licence_and_measures() -> None:
    card = (BUNDLED / "README.md").read_text(encoding="utf-8")
    for fact in ("model/demo/text/", "Apache-2.0", "Held-out loss", "loss.svg", "| story |", "| unseen |"):
        assert fact in card


def test_song_goes_on_as_a_raw_prompt(llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    new = greedy(llama, tokenizer("我爱北京天安")["input_ids"], max_new_tokens=8)
    assert tokenizer.decode(new, skip_special_tokens=True) == "门"


@pytest.mark.parametrize("request_", ["我爱北京天安", "Continue: 我爱北京天安", "Please continue: 我爱北京天安"])
def test_song_goes_on_in_a_chat(llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, request_: str) -> None:
    assert answer(llama, tokenizer, request_) == "门"


@pytest.mark.parametrize("prompt", ["Once upon a time", "Once upon a time, there was a little fox", "One day"])
def test_stories_end(llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompt: str) -> None:
    new = greedy(llama, tokenizer(prompt)["input_ids"])
    assert new[-1] == tokenizer.convert_tokens_to_ids(END_OF_TEXT)
    assert len(new) > 50


def test_stories_keep_to_a_name(llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    prompt = "Once upon a time, there was a little fox named Pip."
    assert tokenizer.decode(greedy(llama, tokenizer(prompt)["input_ids"])).count("Pip") >= 3


def test_turns_end_with_sensible_words(llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    assert answer(llama, tokenizer, "Hello!").startswith(("Hello", "Hi"))
    assert "nexttoken" in answer(llama, tokenizer, "Who are you?")
    assert "Paris" in answer(llama, tokenizer, "What is the capital of France?")
    assert "blue" in answer(llama, tokenizer, "What colour is the sky?")


def test_later_turns_refer_to_earlier_ones(llama: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast) -> None:
    said = answer(llama, tokenizer, "My name is Clara.")
    assert "Clara" in answer(llama, tokenizer, "My name is Clara.", said, "What is my name?")
