"""Our logits against transformers' own, for small random models of every variant we serve."""

import json
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM

from model.families.registry import config_from_directory
from model.loader import load_weights
from model.transformer import Transformer
from tests.model_steps import MAX_SLOTS, Row, Stepper

MODELS = Path(os.environ.get("NEXTTOKEN_TEST_MODELS", Path(__file__).parents[3] / "shared" / "models"))
CPU = torch.device("cpu")
VOCAB = 96
SMALL: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}


def stretched(rope_type: str, **parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": rope_type, "rope_theta": 10_000.0, "factor": 4.0, **parameters}}


LLAMA_3 = stretched("llama3", low_freq_factor=1.0, high_freq_factor=4.0, original_max_position_embeddings=64)
YARN = stretched("yarn", original_max_position_embeddings=64)
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "grouped queries": ("llama", {}),
    "multi-head": ("llama", {"num_key_value_heads": 6}),
    "multi-query": ("llama", {"num_key_value_heads": 1}),
    "biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "own head_dim": ("llama", {"head_dim": 16}),
    "tied": ("llama", {"tie_word_embeddings": True}),
    "gelu": ("llama", {"hidden_act": "gelu_pytorch_tanh"}),
    "theta of Llama 3": ("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}}),
    "linear rope": ("llama", stretched("linear")),
    "dynamic rope within its length": ("llama", stretched("dynamic")),
    "dynamic rope, short": ("llama", {**stretched("dynamic"), "max_position_embeddings": 32}),
    "llama3 rope": ("llama", LLAMA_3),
    "yarn rope": ("llama", YARN),
    "yarn rope, not truncated": ("llama", stretched("yarn", original_max_position_embeddings=64, truncate=False)),
    "yarn rope, two scales": (
        "llama",
        stretched("yarn", original_max_position_embeddings=64, mscale=0.7, mscale_all_dim=1.3, beta_fast=16.0),
    ),
    "Mistral, window": ("mistral", {"sliding_window": 20}),
    "Mistral, no window": ("mistral", {"sliding_window": None}),
}


@dataclass(frozen=True)
class Pair:
    """The same weights in transformers and in ours."""

    theirs: Any
    ours: Transformer


@cache
def pair(variant: str, dtype: torch.dtype = torch.float32) -> Pair:
    kind, changes = VARIANTS[variant]
    config_class, model_class = (
        (LlamaConfig, LlamaForCausalLM) if kind == "llama" else (MistralConfig, MistralForCausalLM)
    )
    torch.manual_seed(7)
    theirs = model_class(config_class(**{**SMALL, **changes}))
    for name, parameter in theirs.named_parameters():  # norms start at one and biases at zero, which would hide them
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.2)
    theirs = theirs.to(dtype).eval()
    with TemporaryDirectory() as directory:
        theirs.save_pretrained(directory)
        ours = Transformer(config_from_directory(Path(directory)), dtype, CPU)
        load_weights(ours, Path(directory))
    return Pair(theirs, ours)


@torch.inference_mode()
def reference(model: Any, token_ids: list[int]) -> Tensor:
    return model(torch.tensor([token_ids])).logits[0].float()


def prompt(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, VOCAB, (length,), generator=generator).tolist()


def greedy(model: Transformer, token_ids: list[int], count: int) -> list[int]:
    """The next tokens, each computed from the cache of those before."""
    stepper = Stepper(model)
    generated = [int(stepper.run(0, token_ids)[-1].argmax())]
    while len(generated) < count:
        generated.append(int(stepper.run(0, generated[-1:])[-1].argmax()))
    return generated


def greedy_of_transformers(model: Any, token_ids: list[int], count: int) -> list[int]:
    inputs = torch.tensor([token_ids])
    all_ids = model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=count,
        do_sample=False,
        pad_token_id=0,
    )
    return all_ids[0, len(token_ids) :].tolist()


@pytest.mark.parametrize("variant", sorted(VARIANTS.keys() - {"dynamic rope, short"}))
def test_float32_logits_equal_those_of_transformers(variant):
    models = pair(variant)
    token_ids = prompt(150)
    expected = reference(models.theirs, token_ids)
    for chunk in (150, 33, 1):
        logits = Stepper(models.ours).run(0, token_ids, chunk)
        assert (logits - expected).abs().max() < 1e-4


@pytest.mark.parametrize("variant", sorted(VARIANTS.keys() - {"dynamic rope, short"}))
def test_bfloat16_logits_are_as_close_to_float32_as_those_of_transformers(variant):
    models, exact = pair(variant, torch.bfloat16), pair(variant)
    token_ids = prompt(100)
    exact_logits = reference(exact.theirs, token_ids)
    their_error = (reference(models.theirs, token_ids) - exact_logits).abs().mean()
    for chunk in (100, 33):
        our_error = (Stepper(models.ours).run(0, token_ids, chunk) - exact_logits).abs().mean()
        assert our_error < 1.2 * their_error


@st.composite
def schedules(draw: st.DrawFn) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
    """Prompts for up to 16 slots, and for each step which of them go on by how many tokens."""
    lengths = draw(st.lists(st.integers(1, 90), min_size=1, max_size=MAX_SLOTS))
    prompts = [prompt(length, seed=draw(st.integers(0, 99))) for length in lengths]
    left = dict(enumerate(lengths))
    steps = []
    while left:
        chosen = draw(st.permutations(sorted(left))) if len(left) < 4 else sorted(left)
        rows = []
        for slot in chosen:
            count = min(left[slot], draw(st.sampled_from((1, 1, 2, 5, 17, 40))))
            rows.append((slot, count))
            left[slot] -= count
            if not left[slot]:
                del left[slot]
        steps.append(rows)
    return prompts, steps


@pytest.mark.parametrize("variant", ["grouped queries", "Mistral, window", "llama3 rope"])
@settings(max_examples=15, deadline=None)
@given(schedule=schedules(), block_size=st.sampled_from((4, 16)))
def test_any_mix_of_chunks_and_decode_rows_gives_the_logits_of_whole_prompts(variant, schedule, block_size):
    models = pair(variant)
    prompts, steps = schedule
    stepper = Stepper(models.ours, block_size=block_size, max_len=96)
    parts: list[list[Tensor]] = [[] for _ in prompts]
    for rows in steps:
        starts = [stepper.num_computed[slot] for slot, _ in rows]
        inputs = [Row(slot, prompts[slot][s : s + n]) for (slot, n), s in zip(rows, starts, strict=True)]
        for row, logits in zip(inputs, stepper.step(inputs), strict=True):
            parts[row.slot].append(logits)
    for token_ids, logits in zip(prompts, parts, strict=True):
        assert (torch.cat(logits) - reference(models.theirs, token_ids)).abs().max() < 1e-4


def test_greedy_text_equals_that_of_transformers_past_the_original_length_of_dynamic_rope():
    models = pair("dynamic rope, short")
    token_ids = prompt(30)
    assert greedy(models.ours, token_ids, 40) == greedy_of_transformers(models.theirs, token_ids, 40)


def test_sixteen_rows_together_write_what_each_writes_alone():
    model = pair("grouped queries").ours
    prompts = [prompt(3 + 9 * i, seed=i) for i in range(MAX_SLOTS)]
    stepper = Stepper(model)
    logits = stepper.step([Row(slot, token_ids) for slot, token_ids in enumerate(prompts)])
    generated = [[int(rows[-1].argmax())] for rows in logits]
    for _ in range(29):
        logits = stepper.step([Row(slot, token_ids[-1:]) for slot, token_ids in enumerate(generated)])
        for token_ids, rows in zip(generated, logits, strict=True):
            token_ids.append(int(rows[-1].argmax()))
    assert generated == [greedy(model, token_ids, 30) for token_ids in prompts]


def test_trained_model_writes_the_text_that_it_writes_in_transformers():
    directory = MODELS / "stories260K"
    if not directory.exists():
        pytest.skip(f"{directory} is not here; NEXTTOKEN_TEST_MODELS names another place")
    theirs = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)
    ours = Transformer(config_from_directory(directory), torch.float32, CPU)
    load_weights(ours, directory)
    token_ids = [1, 403, 407, 261]
    assert greedy(ours, token_ids, 200) == greedy_of_transformers(theirs, token_ids, 200)


def test_config_of_transformers_4_means_the_same_model(tmp_path):
    """rope_theta, rope_scaling with `type` and torch_dtype, instead of rope_parameters and dtype."""
    models = pair("yarn rope")
    models.theirs.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    new = config_from_directory(tmp_path)
    rope = fields.pop("rope_parameters")
    fields |= {"rope_theta": rope.pop("rope_theta"), "torch_dtype": fields.pop("dtype")}
    fields["rope_scaling"] = {"type": rope.pop("rope_type"), **rope}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    assert config_from_directory(tmp_path) == new
