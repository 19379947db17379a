"""Random-weight Llama checkpoints of known shapes, with a tokenizer of bytes and made-up words.

python benchmarks/make_model.py llama-135m build/llama-135m
"""

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM

SHAPES = {
    "llama-135m": {
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
    },
    "llama-1b": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}

SPECIAL_TOKENS = ("<s>", "</s>")
"""Of ids 0 and 1: the beginning and the end of a text."""


def make_model(shape: str, directory: Path, seed: int = 0, num_layers: int | None = None) -> None:
    """Write the checkpoint, in bfloat16, unless it is there; with so many layers rather than those of the shape."""
    if (directory / "model.safetensors").exists():
        return
    torch.manual_seed(seed)
    config = LlamaConfig(
        **SHAPES[shape], max_position_embeddings=8192, tie_word_embeddings=True, bos_token_id=0, eos_token_id=1
    )
    config.num_hidden_layers = num_layers or config.num_hidden_layers
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(directory)
    # Special ones first, where the config has them.
    tokens = [*SPECIAL_TOKENS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    # llama.cpp reads no tokenizer without a merge.
    vocabulary["\u0120w"] = len(tokens)
    # A word for every other id, so that each token has a text and comes in a chunk of its own.
    vocabulary |= {f"\u0120w{i}": i for i in range(len(vocabulary), config.vocab_size)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[("\u0120", "w")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.save(str(directory / "tokenizer.json"))
    beginning, end = SPECIAL_TOKENS
    named = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": beginning, "eos_token": end}
    (directory / "tokenizer_config.json").write_text(json.dumps(named))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("directory", type=Path)
    options = parser.parse_args()
    make_model(options.shape, options.directory)
