"""A Llama of a size for tests."""

from typing import Any

from model.config import ModelConfig, RopeConfig


def small_config(**changes: Any) -> ModelConfig:
    """Two layers, four query heads over two kv heads; with these fields changed."""
    fields: dict[str, Any] = {
        "architecture": "LlamaForCausalLM",
        "vocab_size": 32,
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "intermediate_size": 48,
        "activation": "silu",
        "norm_eps": 1e-5,
        "max_position_embeddings": 2048,
        "rope": RopeConfig(),
    }
    return ModelConfig(**{**fields, **changes})
