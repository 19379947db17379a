"""The Llama family: Llama 1 to 3.3, TinyLlama, SmolLM2 and what else calls itself LlamaForCausalLM."""

from collections.abc import Iterator

from model.config import Activation, GenerationDefaults, ModelConfig
from model.errors import BadConfig, UnsupportedModel
from model.families.family import Family
from model.families.fields import Fields
from model.families.rope import MAX_LENGTH, read_rope
from model.families.weights import Weight, linear

# Bounds far above any real model, low enough that no product of them overflows 64 bits.
MAX_VOCAB = 2**24
MAX_WIDTH = 2**20
MAX_LAYERS = 2**12
MAX_HEADS = 2**12
MAX_HEAD_DIM = 2**12

ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "relu": "relu",
}


def read_config(config: Fields, generation: Fields) -> ModelConfig:
    """A Llama of config.json and generation_config.json; defaults are those of transformers' LlamaConfig."""
    return read_llama_like(config, generation, "LlamaForCausalLM", sliding_window=None)


def read_llama_like(config: Fields, generation: Fields, architecture: str, sliding_window: int | None) -> ModelConfig:
    """A Llama under any name, which may have a sliding window."""
    vocab_size = config.integer("vocab_size", 1, MAX_VOCAB)
    hidden_size = config.integer("hidden_size", 1, MAX_WIDTH)
    num_heads = config.integer("num_attention_heads", 1, MAX_HEADS)
    num_kv_heads = config.integer("num_key_value_heads", 1, MAX_HEADS, num_heads)
    if num_heads % num_kv_heads:
        raise BadConfig(
            f"{config.where}: num_attention_heads {num_heads} is no multiple of num_key_value_heads {num_kv_heads}"
        )
    head_dim = _head_dim(config, hidden_size, num_heads)
    max_position = config.integer("max_position_embeddings", 1, MAX_LENGTH, 2048)
    has_attention_bias = config.flag("attention_bias", False)
    return ModelConfig(
        architecture=architecture,
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        num_layers=config.integer("num_hidden_layers", 1, MAX_LAYERS),
        num_heads=num_heads,
        num_kv_heads=num_kv_heads,
        head_dim=head_dim,
        intermediate_size=config.integer("intermediate_size", 1, MAX_WIDTH),
        activation=_activation(config),
        norm_eps=config.number("rms_norm_eps", 0.0, 1.0, 1e-6),
        max_position_embeddings=max_position,
        rope=read_rope(config, head_dim, max_position),
        tie_embeddings=config.flag("tie_word_embeddings", False),
        qkv_bias=has_attention_bias,
        output_bias=has_attention_bias,
        mlp_bias=config.flag("mlp_bias", False),
        sliding_window=sliding_window,
        bos_token_id=next(iter(config.token_ids("bos_token_id", vocab_size)), None),
        eos_token_ids=_eos_token_ids(config, generation, vocab_size),
        stored_dtype=_stored_dtype(config),
        generation=_generation_defaults(generation),
    )


def weights(config: ModelConfig) -> Iterator[Weight]:
    """Every tensor of a Llama checkpoint: q, k, v become one matrix of ours, and so do gate and up."""
    hidden, inner = config.hidden_size, config.intermediate_size
    yield Weight("model.embed_tokens.weight", (config.vocab_size, hidden), "embedding.weight")
    for i in range(config.num_layers):
        theirs, ours = f"model.layers.{i}", f"layers.{i}"
        yield Weight(f"{theirs}.input_layernorm.weight", (hidden,), f"{ours}.attention_norm.weight")
        yield from linear(
            f"{ours}.attention.qkv",
            {
                f"{theirs}.self_attn.q_proj": config.q_size,
                f"{theirs}.self_attn.k_proj": config.kv_size,
                f"{theirs}.self_attn.v_proj": config.kv_size,
            },
            hidden,
            config.qkv_bias,
        )
        output = {f"{theirs}.self_attn.o_proj": hidden}
        yield from linear(f"{ours}.attention.output", output, config.q_size, config.output_bias)
        yield Weight(f"{theirs}.post_attention_layernorm.weight", (hidden,), f"{ours}.mlp_norm.weight")
        gate_up = {f"{theirs}.mlp.gate_proj": inner, f"{theirs}.mlp.up_proj": inner}
        yield from linear(f"{ours}.mlp.gate_up", gate_up, hidden, config.mlp_bias)
        yield from linear(f"{ours}.mlp.down", {f"{theirs}.mlp.down_proj": hidden}, inner, config.mlp_bias)
    yield Weight("model.norm.weight", (hidden,), "norm.weight")
    if not config.tie_embeddings:
        yield Weight("lm_head.weight", (config.vocab_size, hidden), "head.weight")


def is_ignorable(name: str, config: ModelConfig) -> bool:
    """Tensors that some checkpoints carry without need: rope tables, and the head where it is the embedding."""
    return name.endswith(".rotary_emb.inv_freq") or (config.tie_embeddings and name == "lm_head.weight")


def _head_dim(config: Fields, hidden_size: int, num_heads: int) -> int:
    if not config.has("head_dim") and hidden_size % num_heads:
        raise BadConfig(f"{config.where}: hidden_size {hidden_size} is no multiple of num_attention_heads {num_heads}")
    head_dim = config.integer("head_dim", 2, MAX_HEAD_DIM, hidden_size // num_heads)
    if head_dim % 2 or head_dim < 2:
        raise BadConfig(f"{config.where}: head_dim {head_dim} is odd, so it can't be rotated in pairs")
    return head_dim


def _activation(config: Fields) -> Activation:
    name = config.text("hidden_act", "silu")
    if name not in ACTIVATIONS:
        raise UnsupportedModel(
            f"{config.where}: hidden_act {name[:40]!r} is not supported; {', '.join(ACTIVATIONS)} are"
        )
    return ACTIVATIONS[name]


def _eos_token_ids(config: Fields, generation: Fields, vocab_size: int) -> tuple[int, ...]:
    ids = config.token_ids("eos_token_id", vocab_size) + generation.token_ids("eos_token_id", vocab_size)
    return tuple(dict.fromkeys(ids))


def _stored_dtype(config: Fields) -> str | None:
    name = config.text("dtype", config.text("torch_dtype", "")).removeprefix("torch.")
    return name or None


def _generation_defaults(generation: Fields) -> GenerationDefaults:
    def number(name: str, low: float, high: float) -> float | None:
        return generation.number(name, low, high) if generation.has(name) else None

    return GenerationDefaults(
        temperature=number("temperature", 0.0, 100.0),
        top_p=number("top_p", 0.0, 1.0),
        top_k=generation.integer("top_k", -1, MAX_VOCAB) if generation.has("top_k") else None,
        min_p=number("min_p", 0.0, 1.0),
        repetition_penalty=number("repetition_penalty", 1e-3, 1e3),
    )


LLAMA = Family("LlamaForCausalLM", read_config, weights, is_ignorable)
