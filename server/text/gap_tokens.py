"""The tokens by which models are asked to fill the gap between two texts."""

from typing import NamedTuple

from server.text.tokenizer import Tokenizer


class GapTokens(NamedTuple):
    """A prompt is `prefix`, the text before the gap, `suffix`, the text after it, `middle`."""

    prefix: int
    suffix: int
    middle: int
    end: int | None = None
    """Ends what fills the gap, where that isn't the end-of-sequence token."""


# Bavarian et al. 2022, "Efficient Training of Language Models to Fill in the Middle", in the order that it calls PSM.
_SPELLINGS = (
    ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", ""),  # Qwen2.5, CodeGemma
    ("<fim_prefix>", "<fim_suffix>", "<fim_middle>", ""),  # StarCoder
    ("<fim-prefix>", "<fim-suffix>", "<fim-middle>", ""),  # SantaCoder
    ("<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>", ""),  # GLM-4
    ("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>", ""),  # DeepSeek
    ("▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"),  # Code Llama
    ("<PRE>", "<SUF>", "<MID>", "<EOT>"),
)


def gap_tokens(tokenizer: Tokenizer) -> GapTokens | None:
    """Those of a model, by the spellings that are in use; None if it has none."""
    for spellings in _SPELLINGS:
        prefix, suffix, middle, end = map(tokenizer.id_of, spellings)
        if prefix is not None and suffix is not None and middle is not None:
            return GapTokens(prefix, suffix, middle, end)
    return None
