"""Every number that the bundled model depends on."""

from dataclasses import dataclass

from transformers import LlamaConfig

from model.demo.corpus import BEGIN, END_OF_TEXT, END_OF_TURN, Mixture
from model.demo.tokenizer import MAX_POSITIONS, SPECIAL_TOKENS, VOCAB_SIZE

SEED = 20
TOKENIZER_DOCUMENTS = 20_000

STEP_TOKENS = 4096
COPY_SCALE = 0.3
WARMUP_STEPS = 50
DECAY_SHARE = 0.35
WEIGHT_DECAY = 0.1

WHOLE = Mixture({"story": 30, "chat": 46, "note": 7, "names": 12, "wink": 1, "licensed": 4})
"""All kinds of text; the tokenizer is made from it too."""


@dataclass(frozen=True)
class RowShape:
    """How long rows are in some of the steps, and in which share of them."""

    length: int
    share: float
    max_exchanges: int
    """Of a chat: enough that the longest fill a row."""


# Long rows come all through the training and not at its end, where the learning rate is too low to learn positions.
ROW_SHAPES = (RowShape(256, 0.80, 4), RowShape(768, 0.14, 16), RowShape(2048, 0.06, 50))


@dataclass(frozen=True)
class Round:
    """A part of the training with its own text and its own rise and fall of the learning rate."""

    num_steps: int
    peak_lr: float
    mixture: Mixture
    primer_steps: int = 0
    """Steps at the start that read the primer alone."""
    shapes: tuple[RowShape, ...] = ROW_SHAPES
    step_tokens: int = STEP_TOKENS


# The primer is short texts in which names come again. From the whole mixture alone, where names are far apart, a model
# of this size had not learned to copy a name after 6 M tokens; with the primer it does within the first million.
PRIMER = Mixture({"names": 1})
PRIMER_SHAPE = RowShape(128, 1.0, 1)

# What the first round left weak: short answers to be known by heart, and stories about what was asked for.
EMPHASIS = {"story": 2.5, "sum": 6, "difference": 4, "opposite": 3, "count": 5, "wink": 2, "name": 0.5}

ROUNDS = (
    Round(1400, 3e-3, WHOLE, primer_steps=200),
    Round(1000, 2e-3, Mixture({"story": 22, "chat": 60, "note": 8, "names": 5, "wink": 3, "licensed": 2}, EMPHASIS)),
    # Tools come last. A call is mostly copying, token by token, which the names have not taught, and finding, among a
    # few tools, the one that the question is about. From talks with tools alone neither was learned in 1 M tokens, so
    # there are short texts that are dense with the one, and then with the other.
    Round(
        900,
        2e-3,
        Mixture({"copy": 40, "drill": 40, "chat": 12, "story": 4, "note": 2, "names": 1, "wink": 1}, EMPHASIS),
        shapes=(PRIMER_SHAPE,),
        step_tokens=2048,
    ),
    Round(
        2600,
        2e-3,
        Mixture({"drill": 46, "tools": 24, "copy": 4, "chat": 17, "story": 7, "note": 1, "wink": 1}, EMPHASIS),
        shapes=(RowShape(256, 1.0, 4),),
        step_tokens=2048,
    ),
    Round(
        900,
        2e-3,
        Mixture(
            {"tools": 38, "drill": 6, "story": 14, "chat": 34, "note": 4, "names": 2, "wink": 2, "licensed": 2},
            EMPHASIS,
        ),
    ),
    # What had been known before the tools came.
    Round(
        700,
        2e-3,
        Mixture(
            {"tools": 20, "drill": 2, "story": 19, "chat": 44, "note": 6, "names": 4, "wink": 3, "licensed": 2},
            EMPHASIS,
        ),
    ),
)


def model_config() -> LlamaConfig:
    """2.2 M parameters: what two busy cores can train in half an hour."""
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


def learning_rate(step: int, part: Round) -> float:
    """Linear warm-up, the peak, and a linear way down to nothing over the last `DECAY_SHARE` of the round."""
    rise = (step + 1) / WARMUP_STEPS
    fall = (part.num_steps - step) / (part.num_steps * DECAY_SHARE)
    return part.peak_lr * min(rise, 1.0, fall)
