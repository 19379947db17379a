"""A small model on a GPU that isn't there: its tensors have a device but no contents. Needs the fixture `fake_cuda`."""

from collections.abc import Callable
from typing import Any

import torch

from model.attention.base import AttentionBackend
from model.attention.torch import TorchAttention
from model.config import ModelConfig
from model.decoder import Decoder
from model.kv_cache import KVCache
from model.runner import ModelRunner
from model.sampler import Sampler
from model.stream import HostStream
from model.transformer import Transformer
from tests.small_config import small_config

CUDA = torch.device("cuda:0")
BLOCK = 16
MAX_MODEL_LEN = 512
LLAMA = small_config(
    vocab_size=4000,
    hidden_size=64,
    head_dim=16,
    intermediate_size=96,
    max_position_embeddings=MAX_MODEL_LEN,
    eos_token_ids=(2, 3),
)


class FakeStream(HostStream):
    """In place of events and graphs, which need a real device."""

    is_asynchronous = True


def make_runner(
    config: ModelConfig = LLAMA,
    max_num_seqs: int = 8,
    attention: Callable[[ModelConfig, KVCache], AttentionBackend[Any]] = TorchAttention,
    draft: ModelConfig | None = None,
    stored: torch.dtype | None = None,
    prepare: Callable[[Transformer], None] = lambda model: None,
    sampler: type[Sampler] = Sampler,
) -> ModelRunner:
    """In bfloat16, with a cache of 16 blocks; `prepare` changes the model before it is used."""

    def backend(config: ModelConfig) -> AttentionBackend[Any]:
        return attention(config, KVCache(config, 16, BLOCK, torch.bfloat16, CUDA, stored=stored))

    model = Transformer(config, torch.bfloat16, CUDA)
    prepare(model)
    return ModelRunner(
        model,
        backend(config),
        sampler(max_num_seqs, config.vocab_size, config.eos_token_ids, CUDA),
        max_num_seqs=max_num_seqs,
        max_model_len=MAX_MODEL_LEN,
        block_size=BLOCK,
        stream=FakeStream(),
        draft=None if draft is None else Decoder(Transformer(draft, torch.bfloat16, CUDA), backend(draft)),
    )
