"""What a family of models has to say: how to read its config, and where its weights go."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from model.config import ModelConfig
from model.families.fields import Fields
from model.families.weights import Weight


@dataclass(frozen=True, slots=True)
class Family:
    """One architecture name of config.json. Plain data and functions: no class to inherit from."""

    architecture: str
    read_config: Callable[[Fields, Fields], ModelConfig]
    """From config.json and generation_config.json (empty where there's none)."""
    weights: Callable[[ModelConfig], Iterator[Weight]]
    """Every tensor the checkpoint must have, in the order of the layers."""
    is_ignorable: Callable[[str, ModelConfig], bool]
    """Whether a checkpoint may carry a tensor of this name beyond them."""
