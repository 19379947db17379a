"""Whether one checkpoint can guess what another will say."""

from pathlib import Path

from model.config import ModelConfig
from model.errors import UnsupportedModel
from model.families.registry import config_from_directory


def draft_config(directory: Path, target: ModelConfig, max_model_len: int) -> ModelConfig:
    """The config of the draft model in `directory`, for a model that is served with contexts of `max_model_len`.

    Raises ModelError, and UnsupportedModel if its tokens or its context are not enough to guess for `target`.
    """
    draft = config_from_directory(directory)
    if draft.vocab_size != target.vocab_size:
        raise UnsupportedModel(
            f"--draft-model {directory}: its vocabulary has {draft.vocab_size} tokens, the model's "
            f"{target.vocab_size}; only a model with the same tokens can guess for it"
        )
    if draft.max_model_len < max_model_len:
        raise UnsupportedModel(
            f"--draft-model {directory}: it takes {draft.max_model_len} tokens of context, the model is served with "
            f"{max_model_len}; lower --max-model-len to {draft.max_model_len} or choose another"
        )
    return draft
