"""Mistral-7B and its kin: a Llama whose first version sees a sliding window."""

from model.config import ModelConfig
from model.families import llama
from model.families.family import Family
from model.families.fields import Fields
from model.families.rope import MAX_LENGTH


def read_config(config: Fields, generation: Fields) -> ModelConfig:
    """A Mistral. A config without the field has the window of v0.1, one that says null (v0.2 on) has none."""
    window: int | None = 4096
    if "sliding_window" in config.values:
        window = config.integer("sliding_window", 1, MAX_LENGTH) if config.has("sliding_window") else None
    return llama.read_llama_like(config, generation, "MistralForCausalLM", window)


MISTRAL = Family("MistralForCausalLM", read_config, llama.weights, llama.is_ignorable)
