"""Whole models on our CPU kernels: equal to transformers, and bitwise equal to themselves in any company."""

from functools import cache
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from model.batch import Batch, Join, SamplingParams, TokenLogprobs
from model.build import build_runner
from model.description import RunnerOptions
from model.errors import UnsupportedModel
from model.families.registry import config_from_directory
from model.kernels.cpu.layout import WeightFormat, pack
from model.kernels.cpu.library import CpuKernels
from model.kernels.cpu.packing import Packer
from model.loader import load_weights
from model.runner import ModelRunner
from model.transformer import Transformer
from tests.kernels.levels import each_level, kernels, needs_kernels
from tests.kernels.reference_packing import dense
from tests.model_steps import MAX_SLOTS, Row, Stepper

pytestmark = needs_kernels
CPU = torch.device("cpu")
VOCAB = 96
SMALL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 88,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}
VARIANTS: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "grouped queries": (LlamaConfig, LlamaForCausalLM, {}),
    "biases": (LlamaConfig, LlamaForCausalLM, {"attention_bias": True, "mlp_bias": True}),
    "own head_dim": (LlamaConfig, LlamaForCausalLM, {"head_dim": 20}),
    "tied": (LlamaConfig, LlamaForCausalLM, {"tie_word_embeddings": True}),
    "gelu": (LlamaConfig, LlamaForCausalLM, {"hidden_act": "gelu_pytorch_tanh"}),
    "window": (MistralConfig, MistralForCausalLM, {"sliding_window": 20}),
}


@cache
def saved(variant: str) -> tuple[Any, Path]:
    """The model in transformers, and where it's saved."""
    config_class, model_class, changes = VARIANTS[variant]
    torch.manual_seed(7)
    theirs = model_class(config_class(**{**SMALL, **changes}))
    for name, parameter in theirs.named_parameters():  # norms start at one and biases at zero, which would hide them
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.2)
    directory = TemporaryDirectory()
    KEPT.append(directory)
    theirs.eval().save_pretrained(directory.name)
    return theirs, Path(directory.name)


KEPT: list[TemporaryDirectory[str]] = []


def packed(variant: str, own: CpuKernels, weight_format: WeightFormat = "float32") -> Transformer:
    _, directory = saved(variant)
    dtype = torch.float32 if weight_format == "float32" else torch.bfloat16
    model = Transformer(config_from_directory(directory), dtype, CPU)
    load_weights(model, directory, filled=Packer(model, own, weight_format).filled)
    return model


def prompt(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, VOCAB, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def stepper(model: Transformer, own: CpuKernels, dtype: torch.dtype = torch.float32) -> Stepper:
    return Stepper(model, max_len=1024, kernels=own, cache_dtype=dtype)


@torch.inference_mode()
def reference(variant: str, token_ids: list[int]) -> Tensor:
    return saved(variant)[0](torch.tensor([token_ids])).logits[0]


@each_level
@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_those_of_transformers(level, variant):
    own = kernels(level, 2)
    tokens = prompt(150)
    ours = stepper(packed(variant, own), own).run(0, tokens, chunk=64)
    assert torch.allclose(ours, reference(variant, tokens), atol=2e-4, rtol=1e-4)


@each_level
def test_bfloat16_weights_stay_near_the_model(level):
    own = kernels(level)
    ours = stepper(packed("grouped queries", own, "bfloat16"), own, torch.bfloat16).run(0, prompt(100))
    difference = (ours - reference("grouped queries", prompt(100))).abs()
    assert difference.mean() < 0.04 * ours.abs().mean()


@each_level
@pytest.mark.parametrize("variant", ["tied", "grouped queries"])
@pytest.mark.parametrize("weight_format", ["int8", "int4"])
def test_a_quantised_model_is_that_of_its_rounded_weights(level, variant, weight_format):
    own = kernels(level)
    ours = stepper(packed(variant, own, weight_format), own).run(0, prompt(100))
    _, directory = saved(variant)
    rounded = Transformer(config_from_directory(directory), torch.float32, CPU)
    load_weights(rounded, directory)
    for parameter in rounded.parameters():
        loaded = parameter.bfloat16()
        parameter.copy_(dense(pack(own, loaded, weight_format)) if parameter.dim() == 2 else loaded)
    # What is left is the rounding of activations to bytes, which these random weights enlarge from layer to layer.
    reference = Stepper(rounded).run(0, prompt(100))
    assert (ours - reference).abs().mean() < 0.06 * reference.abs().mean()


@each_level
@pytest.mark.parametrize("weight_format", ["float32", "bfloat16", "int8", "int4"])
def test_logits_are_bitwise_equal_however_a_prompt_is_cut_and_batched(level, weight_format):
    own = kernels(level, 2)
    model = packed("grouped queries", own, weight_format)
    dtype = torch.float32 if weight_format == "float32" else torch.bfloat16
    tokens = prompt(600)
    whole = stepper(model, own, dtype).run(0, tokens)
    for chunk in (1, 16, 512):
        assert stepper(model, own, dtype).run(0, tokens, chunk).equal(whole), chunk
    batch = stepper(model, own, dtype)
    others = [Row(slot, prompt(20 + 13 * slot, seed=slot)) for slot in range(1, MAX_SLOTS)]
    first = batch.step([*others[:7], Row(0, tokens[:590]), *others[7:]])[7]
    assert first.equal(whole[:590])
    for position in range(590, 600):
        logits = batch.step([Row(slot, [slot]) for slot in range(1, 8)] + [Row(0, [tokens[position]])])[-1]
        assert logits[0].equal(whole[position])


# ---- through the runner, with what the engine sees ----

TOP = 20
LISTED = SamplingParams(max_tokens=4, temperature=0.0, logprobs=TOP, ignore_eos=True)
BLOCK = 16
BLOCKS_EACH = 42


@pytest.fixture(scope="module", params=["float32", "bfloat16", "int8"])
def runner(request) -> ModelRunner:
    options = {"dtype": "float32"} if request.param == "float32" else {"dtype": "bfloat16"}
    if request.param == "int8":
        options["quantization"] = "int8"
    chosen = RunnerOptions(model_dir=str(saved("grouped queries")[1]), max_num_seqs=40, num_threads=2, **options)
    made, info = build_runner(chosen, lambda phase, fraction: None)
    assert info.attention == "paged"
    assert "own kernels" in info.kernels
    return made


def steps(
    runner: ModelRunner, slot: int, tokens: list[int], chunk: int, cached: int = 0, others: int = 0
) -> list[TokenLogprobs | None]:
    """The log-probabilities drawn after the prompt and after each of three more tokens.

    `cached` tokens are taken from the blocks of slot 0, which has them; `others` sequences decode in the same steps.
    """
    own_blocks = [slot * BLOCKS_EACH + i for i in range(BLOCKS_EACH)]
    blocks = [*range(cached // BLOCK), *own_blocks[cached // BLOCK :]]
    beside = list(range(1, 1 + others))
    joins = [Join(s, prompt(30 + s, seed=s), 30 + s, 0, LISTED) for s in beside]
    listed: list[TokenLogprobs | None] = []
    computed, num_known, age = cached, len(tokens), 0
    while computed < len(tokens) + 3:
        count = min(chunk, num_known - computed)
        is_last = computed + count == num_known
        first = age == 0
        batch = Batch(
            slots=[*beside, slot],
            num_computed=[0 if first else 29 + s + age for s in beside] + [computed],
            num_new=[30 + s if first else 1 for s in beside] + [count],
            is_sampled=[True] * others + [is_last],
            joins=[*joins, Join(slot, tokens, len(tokens), 0, LISTED)] if first else [],
        )
        if first:
            for s, table in ((slot, blocks), *((s, [s * BLOCKS_EACH + i for i in range(BLOCKS_EACH)]) for s in beside)):
                batch.block_slots += [s] * BLOCKS_EACH
                batch.block_indexes += range(BLOCKS_EACH)
                batch.block_ids += table
        output = runner.run(batch)
        computed, age = computed + count, age + 1
        if is_last:
            num_known += 1
            listed.append(output.logprobs[others])
    return listed


def test_the_runner_lists_the_same_numbers_alone_in_a_batch_chunked_and_from_the_cache(runner):
    tokens = prompt(600)
    alone = steps(runner, 0, tokens, chunk=600)
    assert steps(runner, 35, tokens, chunk=600, others=31) == alone
    assert steps(runner, 36, tokens, chunk=16) == alone
    assert steps(runner, 37, tokens, chunk=512) == alone
    assert steps(runner, 38, tokens, chunk=600, cached=592) == alone


def test_quantising_without_the_kernels_is_refused():
    options = RunnerOptions(model_dir=str(saved("tied")[1]), quantization="int8", kernels="torch")
    with pytest.raises(UnsupportedModel, match="--quantization int8 needs the CPU kernels, but --kernels torch"):
        build_runner(options, lambda phase, fraction: None)


def test_an_fp8_cache_is_refused_where_the_cpu_kernels_compute():
    options = RunnerOptions(model_dir=str(saved("tied")[1]), kv_cache_dtype="fp8")
    with pytest.raises(UnsupportedModel, match="--kv-cache-dtype fp8: leave it out, or add --kernels torch"):
        build_runner(options, lambda phase, fraction: None)


def test_blocks_too_small_for_the_kernels_fall_back_to_torch_and_say_so():
    options = RunnerOptions(model_dir=str(saved("tied")[1]), block_size=8, num_threads=1)
    _, info = build_runner(options, lambda phase, fraction: None)
    assert info.attention == "torch"
    assert "multiple of 16" in info.kernels


def test_a_model_is_never_held_twice_while_it_is_packed():
    own, (_, directory) = kernels("plain"), saved("grouped queries")
    model = Transformer(config_from_directory(directory), torch.float32, CPU)
    names = [name for name, _ in model.named_parameters()]
    packer, left = Packer(model, own, "int8"), [len(names)]

    def filled(parameter: str) -> None:
        packer.filled(parameter)
        left.append(len(list(model.parameters())))

    load_weights(model, directory, filled=filled)
    in_a_layer = sum(name.startswith("layers.0.") for name in names)
    freed = [before - after for before, after in pairwise(left)]
    assert sorted(filter(None, freed)) == [1, 1, 1] + [in_a_layer] * SMALL["num_hidden_layers"]
