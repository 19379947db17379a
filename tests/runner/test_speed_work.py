"""What a step must read and compute, counted another way."""

import pytest
import torch

from model.config import ModelConfig, RopeConfig
from model.description import ModelInfo
from model.speed.steps import Case
from model.speed.work import Work
from model.transformer import Transformer


def config_of(**changes: object) -> ModelConfig:
    fields: dict[str, object] = {
        "architecture": "LlamaForCausalLM",
        "vocab_size": 100,
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 4,
        "intermediate_size": 32,
        "activation": "silu",
        "norm_eps": 1e-5,
        "max_position_embeddings": 64,
        "rope": RopeConfig(),
    }
    return ModelConfig(**fields | changes)  # type: ignore[arg-type]


def work_of(config: ModelConfig) -> tuple[Work, int, int]:
    """With the parameters of a real model in float32: of its products, and all."""
    model = Transformer(config, torch.float32, torch.device("cpu"))
    sizes = {name: weight.numel() for name, weight in model.named_parameters()}
    num_blocks, block_size = 3, 16
    info = ModelInfo(
        architecture="",
        num_parameters=sum(sizes.values()),
        dtype="float32",
        device="cpu",
        attention="",
        vocab_size=config.vocab_size,
        max_model_len=64,
        max_num_seqs=1,
        max_step_tokens=1,
        block_size=block_size,
        kv_cache_dtype="float32",
        num_blocks=num_blocks,
        eos_token_ids=[],
        bos_token_id=None,
        weights_bytes=4 * sum(sizes.values()),
        kv_cache_bytes=num_blocks * block_size * config.num_layers * 2 * config.kv_size * 4,
    )
    in_products = sum(size for name, size in sizes.items() if "norm" not in name and not name.startswith("embedding"))
    return Work(config, info), in_products, sum(sizes.values())


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_a_step_reads_the_head_whole_and_of_another_embedding_only_the_tokens_rows(tie_embeddings: bool) -> None:
    config = config_of(tie_embeddings=tie_embeddings)
    work, _, num_parameters = work_of(config)
    embedding = config.vocab_size * config.hidden_size
    weights = num_parameters - (0 if tie_embeddings else embedding)
    kv = 10 * config.num_layers * 2 * config.kv_size
    assert work.decode_bytes(Case(3, 10)) == pytest.approx(4 * (weights + 3 * (config.hidden_size + kv)))


@pytest.mark.parametrize("tie_embeddings", [True, False])
def test_a_token_takes_two_operations_a_weight_and_four_a_head_dimension_of_each_key(tie_embeddings: bool) -> None:
    config = config_of(tie_embeddings=tie_embeddings)
    work, in_products, _ = work_of(config)
    head = config.vocab_size * config.hidden_size
    if tie_embeddings:
        in_products += head
    attention = 4 * config.num_layers * config.num_heads * config.head_dim
    assert work.decode_flops(Case(3, 10)) == pytest.approx(3 * (2 * in_products + attention * 10), rel=0.02)
    expected = 2 * 10 * (in_products - head) + 2 * head + attention * sum(range(1, 11))
    assert work.prefill_flops(10) == pytest.approx(expected, rel=0.02)


def test_a_window_bounds_what_is_seen() -> None:
    work, _, _ = work_of(config_of(sliding_window=4))
    assert work.decode_bytes(Case(1, 50)) == work.decode_bytes(Case(1, 4))
    assert work.decode_flops(Case(1, 50)) == work.decode_flops(Case(1, 4))
