"""What a step must read and compute."""

from model.config import ModelConfig
from model.description import ModelInfo
from model.speed.steps import Case


class Work:
    """What a step must read and compute, from the model's shape alone."""

    def __init__(self, config: ModelConfig, info: ModelInfo) -> None:
        embedding = config.vocab_size * config.hidden_size
        self._config = config
        self._head = embedding
        self._layers = info.num_parameters - embedding * (1 if config.tie_embeddings else 2)
        # Of an embedding that is not the head as well, only the rows of the step's tokens are read.
        share_read = 1.0 if config.tie_embeddings else 1 - embedding / info.num_parameters
        self._weights_bytes = info.weights_bytes * share_read
        self._row_bytes = info.weights_bytes / info.num_parameters * config.hidden_size
        self._token_bytes = info.kv_cache_bytes / (info.num_blocks * info.block_size)

    def decode_bytes(self, case: Case) -> float:
        """All weights once, a row of the embedding and the visible keys and values for each sequence."""
        return self._weights_bytes + case.batch * (self._row_bytes + self._visible(case.context) * self._token_bytes)

    def decode_flops(self, case: Case) -> float:
        """Two for each weight and each sequence, and attention."""
        attention = self._attention_flops(self._visible(case.context))
        return case.batch * (2 * (self._layers + self._head) + attention)

    def prefill_flops(self, context: int) -> float:
        """Of one prompt: logits are made for its last token alone."""
        num_visible = sum(self._visible(position) for position in range(1, context + 1))
        return 2 * context * self._layers + 2 * self._head + self._attention_flops(num_visible)

    def _visible(self, context: int) -> int:
        return min(context, self._config.sliding_window or context)

    def _attention_flops(self, num_keys: int) -> float:
        """Each key is multiplied with a query, and its value with the weight that came of that."""
        return 4.0 * self._config.num_layers * self._config.q_size * num_keys
