"""A text ends at any token that one of the model's files calls its end."""

import json
from pathlib import Path
from typing import Any

import pytest

from model.families.registry import config_from_directory
from server.app import create_app
from server.served import ServedModel, ServedModels
from server.settings import Settings
from server.text.tokenizer import Tokenizer
from tests.api.serving import Served, complete
from tests.fakes import END, EOS, ScriptedEngine, byte_tokenizer, chat_template

VOCAB_SIZE = 260
IN_CONFIG, IN_GENERATION_CONFIG, IN_TOKENIZER = 256, 257, 259
ENDS = [IN_CONFIG, IN_GENERATION_CONFIG, IN_TOKENIZER]
A, B = byte_tokenizer().encode("ab", add_special_tokens=False)

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "eos_token_id": IN_CONFIG,
}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A model's files but its weights, three of which name three different ends."""
    files: dict[str, Any] = {
        "config.json": CONFIG,
        "generation_config.json": {"eos_token_id": [IN_GENERATION_CONFIG]},
        "tokenizer_config.json": {"eos_token": END},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    byte_tokenizer()._tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def serve(directory: Path, token_ids: list[int], vocab_size: int = VOCAB_SIZE) -> Served:
    """An app whose model draws these tokens, and whose worker ends texts by what it reads of the files."""
    tokenizer = Tokenizer.load(directory)
    engine = ScriptedEngine(
        lambda prompt, choice, position: token_ids[position],
        vocab_size=vocab_size,
        eos_token_ids=config_from_directory(directory).eos_token_ids,
    )
    model = ServedModel(("tiny",), tokenizer, chat_template(tokenizer), engine, created=1)
    return Served(create_app(Settings(), ServedModels([model]), version="0.0.0"), engine, model)


@pytest.mark.parametrize("end", ENDS)
def test_dt08_a_text_ends_at_the_token_of_any_of_the_three_files(directory: Path, end: int) -> None:
    answer = complete(serve(directory, [A, B, end, A, A]), prompt="a", max_tokens=5, skip_special_tokens=False)
    assert [(choice["text"], choice["finish_reason"]) for choice in answer["choices"]] == [("ab", "stop")]
    assert answer["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("end", ENDS)
def test_ignore_eos_goes_on_after_each_of_them(directory: Path, end: int) -> None:
    answer = complete(serve(directory, [A, end, B]), prompt="a", max_tokens=3, ignore_eos=True)
    assert [(choice["text"], choice["finish_reason"]) for choice in answer["choices"]] == [("ab", "length")]


def test_min_tokens_holds_back_the_tokenizers_end_as_well(directory: Path) -> None:
    answer = complete(serve(directory, [A, IN_TOKENIZER, B, IN_TOKENIZER]), prompt="a", max_tokens=4, min_tokens=3)
    assert answer["choices"][0]["text"] == "ab"
    assert answer["usage"]["completion_tokens"] == 4


def test_an_end_that_the_model_has_no_embedding_for_is_never_sent_to_the_worker(directory: Path) -> None:
    served = serve(directory, [A, B], vocab_size=IN_TOKENIZER)
    assert complete(served, prompt="a", max_tokens=2)["choices"][0]["text"] == "ab"
    tokenizer = Tokenizer.load(directory)
    model = ServedModel(("tiny",), tokenizer, chat_template(tokenizer), served.engine, created=1)
    assert model.tokenizer_eos_ids == ()


def test_an_end_that_the_worker_knows_is_not_told_twice() -> None:
    tokenizer = byte_tokenizer()
    engine = ScriptedEngine(lambda prompt, choice, position: A)
    assert tokenizer.eos_token == EOS
    assert ServedModel(("tiny",), tokenizer, chat_template(tokenizer), engine, created=1).tokenizer_eos_ids == ()
