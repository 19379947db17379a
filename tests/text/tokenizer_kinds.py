"""Small tokenizers of the kinds that the Llama family uses, trained on a few lines and written as model directories."""

import json
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = [
    "Once upon a time there was a little girl named Lily. She loved to play outside in the park.",
    "The quick brown fox jumps over the lazy dog, and the dog doesn't mind: it's 1234567 years old.",
    "def main():\n    return [x for x in range(100)]\n\n\nprint('hello')  # a comment\t\n",
    "Grüße aus Köln; été à la plage; こんにちは世界; ภาษาไทย สวัสดีครับ; 我爱北京天安门",
    "👍🏽 👩‍👩‍👧 🇩🇪 🇫🇷 emoji with skin tones and flags",
] * 4

LLAMA3_SPLIT = "|".join(
    [
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)",
        r"[^\r\n\p{L}\p{N}]?\p{L}+",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)


def llama3(directory: Path) -> Path:
    """Byte-level, BOS by TemplateProcessing."""
    split = pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokens = ["<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"]
    tokenizer = _byte_level(pre_tokenizers.Sequence([split, byte_level]), tokens)
    bos = tokenizer.token_to_id(tokens[0])
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{tokens[0]} $A", special_tokens=[(tokens[0], bos)]),
        ]
    )
    return _write(directory, tokenizer, bos_token=tokens[0], eos_token=tokens[1])


def gpt2(directory: Path) -> Path:
    """Byte-level without anything added."""
    tokenizer = _byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False), ["<|endoftext|>"])
    return _write(directory, tokenizer, bos_token="<|endoftext|>", eos_token="<|endoftext|>")


def smollm2(directory: Path) -> Path:
    """Byte-level with single digits, ChatML tokens."""
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = _byte_level(pre_tokenizers.Sequence(steps), tokens)
    return _write(directory, tokenizer, bos_token="<|im_start|>", eos_token="<|im_end|>")


def llama2(directory: Path) -> Path:
    """Sentencepiece with byte fallback, spaces made by a normalizer."""
    tokenizer = _sentencepiece()
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return _write(directory, tokenizer, bos_token="<s>", eos_token="</s>")


def mistral(directory: Path) -> Path:
    """Sentencepiece with byte fallback, spaces made by a pre-tokenizer; control tokens for instructions."""
    tokenizer = _sentencepiece()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    tokenizer.add_special_tokens(["[INST]", "[/INST]"])
    return _write(directory, tokenizer, bos_token="<s>", eos_token="</s>")


def word_piece(directory: Path) -> Path:
    """Neither byte-level nor sentencepiece: words and their continuations."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]", "[SEP]"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.decoder = decoders.WordPiece()
    return _write(directory, tokenizer, eos_token="[SEP]")


BYTE_KINDS = [llama3, gpt2, smollm2, llama2, mistral]


def _byte_level(pre_tokenizer: pre_tokenizers.PreTokenizer, special_tokens: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens(special_tokens)
    return tokenizer


def _sentencepiece() -> Tokenizer:
    """The vocabulary is trained as one kind of tokenizer and used as another, since no trainer makes byte tokens."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    control = ["<unk>", "<s>", "</s>"]
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=480, special_tokens=control + byte_tokens, limit_alphabet=60, show_progress=False
    )
    trained.train_from_iterator(CORPUS, trainer)
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    tokenizer = Tokenizer(
        models.BPE(vocab=model["vocab"], merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.add_special_tokens([AddedToken(text, normalized=False) for text in control])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


def _write(directory: Path, tokenizer: Tokenizer, **special_tokens: str) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **special_tokens}
    (directory / "tokenizer_config.json").write_text(json.dumps(config))
    (directory / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return directory
