"""The models that are served, by their names."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from model.grammar import Vocabulary
from server.engine.interface import Engine
from server.engine.messages import ModelInfo
from server.errors import EngineDead, ModelNotFound, NotReady
from server.pace import Pace
from server.text.dialect import Dialect
from server.text.template import ChatTemplate
from server.text.tokenizer import Tokenizer
from server.version import VERSION


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model as clients see it: its text side, and the engine that runs it."""

    names: tuple[str, ...]
    """The first is what logs and metrics call it, and answers to requests that name none."""
    tokenizer: Tokenizer
    template: ChatTemplate
    engine: Engine
    created: int
    """Unix time."""
    dialect: Dialect = field(default_factory=Dialect)
    """How it is told of tools and of thinking, and how it answers."""
    pace: Pace = field(default_factory=Pace)
    """How fast it has read prompts lately."""

    @property
    def name(self) -> str:
        """The name in logs and metrics."""
        return self.names[0]

    @property
    def info(self) -> ModelInfo:
        """What the worker serves. Raises NotReady while it loads, EngineDead if it never will."""
        if self.engine.model is None:
            status = self.engine.status
            if status.phase == "dead":
                raise EngineDead("the model could not be started; the server's log says why")
            raise NotReady(f"the model is not ready yet: {status.detail} ({status.fraction:.0%})")
        return self.engine.model

    @property
    def tokenizer_eos_ids(self) -> tuple[int, ...]:
        """The tokenizer's end-of-sequence token, if the worker doesn't know it: model files often name others only."""
        eos = self.tokenizer.eos_token_id
        # A tokenizer may have more tokens than the model, which never draws those.
        if eos is None or eos in self.info.eos_token_ids or eos >= self.info.vocab_size:
            return ()
        return (eos,)

    @property
    def follows_grammars(self) -> bool:
        """Whether each token has a text of its own, whatever its neighbours are, and a text can end."""
        return self.tokenizer.has_byte_tokens and bool(self.info.eos_token_ids or self.tokenizer_eos_ids)

    @property
    def can_bound_thoughts(self) -> bool:
        """Whether its thoughts can be told from its answer while it writes, and so be ended."""
        return self.dialect.tags is not None and self.follows_grammars

    def vocabulary(self, info: ModelInfo) -> Vocabulary | None:
        """The model's tokens as text, for grammars; None for a model that can't follow any."""
        if not self.follows_grammars:
            return None
        tokenizer = self.tokenizer
        eos_ids = sorted({*info.eos_token_ids, *self.tokenizer_eos_ids})
        num_known = min(tokenizer.vocab_size, info.vocab_size)
        tokens = [tokenizer.token_bytes(i) for i in range(num_known)] + [b""] * (info.vocab_size - num_known)
        return Vocabulary(tokens, sorted(i for i in tokenizer.special_ids if i < num_known), eos_ids)

    @property
    def fingerprint(self) -> str:
        """Changes when the same request with the same seed may give another text."""
        info = self.info
        model = (self.name, info.architecture, info.num_parameters, info.dtype, info.quantization)
        parts = (VERSION, *model, info.kv_cache_dtype, info.device, info.attention, info.kernels)
        return "fp_" + hashlib.sha256(repr(parts).encode()).hexdigest()[:10]


class ServedModels:
    """Looks models up by name."""

    def __init__(self, models: Sequence[ServedModel]) -> None:
        self._models = tuple(models)
        self._by_name = {name: model for model in models for name in model.names}

    def __iter__(self) -> Iterator[ServedModel]:
        return iter(self._models)

    def engines(self) -> Iterator[tuple[str, Engine]]:
        """The engine of each model, with the model's name in logs and metrics."""
        return ((model.name, model.engine) for model in self._models)

    @property
    def by_name(self) -> dict[str, ServedModel]:
        """Every served name, aliases too."""
        return dict(self._by_name)

    def find(self, name: str | None) -> ServedModel:
        """The model of this name; without a name the only one, if there is only one. Raises ModelNotFound."""
        if name is None and len(self._models) == 1:
            return self._models[0]
        model = self._by_name.get(name or "")
        if model is None:
            names = ", ".join(sorted(self._by_name))
            raise ModelNotFound(f"no such model is served; this server has: {names}", param="model")
        return model
