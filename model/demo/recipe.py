"""Every number that the bundled model depends on."""

from dataclasses import dataclass

from transformers import LlamaConfig

from model.demo.corpus import BEGIN, END_OF_TEXT, END_OF_TURN
from model.demo.tokenizer import MAX_POSITIONS, SPECIAL_TOKENS, VOCAB_SIZE

SEED = 20
TOKENIZER_DOCUMENTS = 20_000

NUM_STEPS = 4_600
STEP_TOKENS = 4096
PEAK_LR = 3e-3
COPY_SCALE = 0.3
WARMUP_STEPS = 100
DECAY_SHARE = 0.45
WEIGHT_DECAY = 0.1

# The primer is short texts in which names and words come again. From the whole mixture alone, where names are far
# apart, a model of this size had not learned to copy a name after 6 M tokens; with the primer it does within the first
# million.
PRIMER = {"copy": 3, "names": 1}
PRIMER_STEPS = 500

WHOLE = {
    "story": 14,
    "chat": 32,
    "tools": 16,
    "errand": 30,
    "copy": 8,
    "form": 4,
    "note": 3,
    "names": 2,
    "wink": 1,
}
"""All kinds of text; the tokenizer is made from it too."""


@dataclass(frozen=True)
class RowShape:
    """How long rows are in some of the steps, and in which share of them."""

    length: int
    share: float
    max_exchanges: int
    """Of a chat: enough that the longest fill a row."""


# Long rows come all through the training and not at its end, where the learning rate is too low to learn positions.
ROW_SHAPES = (RowShape(256, 0.85, 4), RowShape(1024, 0.1, 20), RowShape(2048, 0.05, 50))


def model_config() -> LlamaConfig:
    """2.2 M parameters: what two busy cores can train in an hour."""
    return LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=192,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_POSITIONS,
        rms_norm_eps=1e-5,
        tie_word_embeddings=True,
        # Near 1/sqrt(width): with the usual 0.02, made for wider models, attention starts flat and stays so for long.
        initializer_range=0.06,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
        bos_token_id=SPECIAL_TOKENS.index(BEGIN),
        eos_token_id=[SPECIAL_TOKENS.index(END_OF_TURN), SPECIAL_TOKENS.index(END_OF_TEXT)],
        pad_token_id=SPECIAL_TOKENS.index(END_OF_TEXT),
    )


def learning_rate(step: int) -> float:
    """Linear warm-up, the peak, and a linear way down to nothing over the last `DECAY_SHARE` of the steps."""
    rise = (step + 1) / WARMUP_STEPS
    fall = (NUM_STEPS - step) / (NUM_STEPS * DECAY_SHARE)
    return PEAK_LR * min(rise, 1.0, fall)
