"""Which architectures we serve, by the name in config.json."""

from pathlib import Path

from model.config import ModelConfig
from model.errors import BadConfig, UnsupportedModel
from model.families.family import Family
from model.families.fields import Fields
from model.families.llama import LLAMA
from model.families.mistral import MISTRAL

FAMILIES: dict[str, Family] = {family.architecture: family for family in (LLAMA, MISTRAL)}


def config_from_directory(directory: Path) -> ModelConfig:
    """The architecture of a checkpoint, from config.json and, where there is one, generation_config.json.

    Both are read as data: `auto_map` and whatever else names code has no effect.
    Raises BadConfig or UnsupportedModel, naming file and field.
    """
    config = Fields.of_file(directory / "config.json")
    generation_path = directory / "generation_config.json"
    generation = Fields.of_file(generation_path) if generation_path.exists() else Fields({}, str(generation_path))
    family = FAMILIES.get(_architecture(config))
    if family is None:
        raise UnsupportedModel(
            f"{config.where}: architecture {_architecture(config)[:60]!r} is not supported; {', '.join(FAMILIES)} are"
        )
    if config.has("quantization_config"):
        raise UnsupportedModel(
            f"{config.where}: quantization_config: quantized checkpoints are not supported; "
            "use the float16 or bfloat16 release of the model"
        )
    return family.read_config(config, generation)


def _architecture(config: Fields) -> str:
    names = config.values.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise BadConfig(f"{config.where}: architectures must be a list with the architecture's name")
    return names[0]
