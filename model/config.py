"""What an architecture is, as data: the fields that choose between the parts of the one transformer."""

from dataclasses import dataclass
from typing import Literal

RopeKind = Literal["default", "linear", "dynamic", "llama3", "yarn"]
Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RopeConfig:
    """Rotary positions (Su et al. 2021) and how they're stretched beyond the length of the pretraining."""

    kind: RopeKind = "default"
    theta: float = 10_000.0
    factor: float = 1.0
    """How many times longer the context becomes; every kind but default."""
    original_max_position: int = 0
    """Length before stretching, in tokens; every kind but default and linear."""
    low_freq_factor: float = 1.0
    """llama3: wavelengths above original / this are divided by factor."""
    high_freq_factor: float = 4.0
    """llama3: wavelengths below original / this stay as they are."""
    beta_fast: float = 32.0
    """yarn: dimensions with more rotations over the original length stay as they are."""
    beta_slow: float = 1.0
    """yarn: dimensions with fewer rotations over the original length are divided by factor."""
    truncate: bool = True
    """yarn: round the borders of the ramp between the two to whole dimensions."""
    attention_factor: float = 1.0
    """yarn: multiplies cos and sin, so the attention logits by its square."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationDefaults:
    """What `generation_config.json` recommends; None where it says nothing."""

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """One decoder-only transformer. Sizes are counts of numbers, lengths are in tokens."""

    architecture: str
    """The name in config.json, such as LlamaForCausalLM."""
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    activation: Activation
    norm_eps: float
    max_position_embeddings: int
    """As the config says it, which is before stretching for some kinds of rope: see `max_model_len`."""
    rope: RopeConfig
    tie_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    sliding_window: int | None = None
    """Each token sees this many last tokens, itself among them; None: all."""
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    """Of config.json and generation_config.json together; the tokenizer may add its own."""
    stored_dtype: str | None = None
    """The dtype config.json names: float32, float16 or bfloat16. The files decide: see the loader."""
    generation: GenerationDefaults = GenerationDefaults()

    @property
    def max_model_len(self) -> int:
        """The longest context the rope scaling was made for, by the rule that users of vLLM know.

        linear and dynamic: max_position_embeddings times factor. yarn: the original length times factor.
        default and llama3: max_position_embeddings, which already is the stretched length.
        """
        if self.rope.kind in ("linear", "dynamic"):
            return int(self.max_position_embeddings * self.rope.factor)
        if self.rope.kind == "yarn":
            return int(self.rope.original_max_position * self.rope.factor)
        return self.max_position_embeddings

    @property
    def q_size(self) -> int:
        """Rows of the query projection."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Rows of the key projection, as of the value projection."""
        return self.num_kv_heads * self.head_dim
