"""A model of random weights on the CPU, and runners of it over a cache whose blocks are NaN until written."""

import torch

from model.attention.torch import TorchAttention
from model.decoder import Decoder
from model.kv_cache import KVCache
from model.runner import ModelRunner
from model.sampler import Sampler
from model.stream import HostStream
from model.transformer import Transformer
from tests.recordable import poison
from tests.small_config import small_config

CPU = torch.device("cpu")
BLOCK, NUM_BLOCKS, MAX_MODEL_LEN, MAX_NUM_SEQS = 4, 64, 128, 7
CONFIG = small_config(vocab_size=96, max_position_embeddings=MAX_MODEL_LEN, eos_token_ids=(2, 5))


def random_model() -> Transformer:
    torch.manual_seed(3)
    transformer = Transformer(CONFIG, torch.float32, CPU)
    for name, parameter in transformer.named_parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.15)
    return transformer


def make_runner(
    model: Transformer,
    attention: type[TorchAttention],
    stream: HostStream,
    kind_of_runner: type[ModelRunner] = ModelRunner,
    draft: Transformer | None = None,
) -> tuple[ModelRunner, KVCache]:
    """With one more block than a scheduler would know."""

    def backend() -> TorchAttention:
        made = attention(CONFIG, KVCache(CONFIG, NUM_BLOCKS + 1, BLOCK, torch.float32, CPU))
        poison(made)
        return made

    own = backend()
    runner = kind_of_runner(
        model,
        own,
        Sampler(MAX_NUM_SEQS, CONFIG.vocab_size, CONFIG.eos_token_ids, CPU),
        max_num_seqs=MAX_NUM_SEQS,
        max_model_len=MAX_MODEL_LEN,
        block_size=BLOCK,
        stream=stream,
        draft=None if draft is None else Decoder(draft, backend()),
    )
    return runner, own.cache
