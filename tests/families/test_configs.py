"""config.json and generation_config.json as strangers write them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.config import GenerationDefaults, ModelConfig, RopeConfig
from model.errors import BadConfig, ModelError, UnsupportedModel
from model.families.registry import config_from_directory

TINY: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 64,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}


def read(directory: Path, changes: dict[str, Any], generation: dict[str, Any] | None = None) -> ModelConfig:
    (directory / "config.json").write_text(json.dumps({**TINY, **changes}))
    if generation is not None:
        (directory / "generation_config.json").write_text(json.dumps(generation))
    return config_from_directory(directory)


def test_eos_ids_are_the_union_of_config_and_generation_config(tmp_path):
    config = read(tmp_path, {"eos_token_id": 2}, {"eos_token_id": [5, 2, 7]})
    assert config.eos_token_ids == (2, 5, 7)


def test_generation_defaults_are_read(tmp_path):
    config = read(tmp_path, {}, {"temperature": 0.6, "top_p": 0.9, "top_k": 20, "repetition_penalty": 1.1})
    assert config.generation == GenerationDefaults(temperature=0.6, top_p=0.9, top_k=20, repetition_penalty=1.1)


def test_fields_that_transformers_leaves_out_have_its_defaults(tmp_path):
    changes = {"num_key_value_heads": None, "bos_token_id": None}
    config = read(tmp_path, changes)
    assert config.num_kv_heads == 4
    assert config.head_dim == 4
    assert config.rope == RopeConfig(theta=10_000.0)
    assert (config.norm_eps, config.activation, config.tie_embeddings) == (1e-6, "silu", False)
    assert config.bos_token_id is None


@pytest.mark.parametrize(
    ("changes", "stored"),
    [({"torch_dtype": "bfloat16"}, "bfloat16"), ({"dtype": "float32"}, "float32"), ({}, None)],
)
def test_stored_dtype_is_read_under_both_names(tmp_path, changes, stored):
    assert read(tmp_path, changes).stored_dtype == stored


LLAMA_31_ROPE = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


@pytest.mark.parametrize(
    ("scaling", "length"),
    [
        (None, 128),
        ({"type": "linear", "factor": 2.5}, 320),
        ({"type": "dynamic", "factor": 2.0}, 256),
        (LLAMA_31_ROPE, 128),
        ({"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}, 128),
        ({"type": "yarn", "factor": 4.0}, 512),
    ],
)
def test_max_model_len_follows_the_kind_of_rope(tmp_path, scaling, length):
    assert read(tmp_path, {"rope_scaling": scaling}).max_model_len == length


@pytest.mark.parametrize(
    ("fields", "window"), [({}, 4096), ({"sliding_window": None}, None), ({"sliding_window": 8}, 8)]
)
def test_mistral_without_the_field_has_the_window_of_its_first_version(tmp_path, fields, window):
    assert read(tmp_path, {"architectures": ["MistralForCausalLM"], **fields}).sliding_window == window


def test_rope_parameters_and_rope_scaling_mean_the_same(tmp_path):
    old = read(tmp_path, {"rope_theta": 5e5, "rope_scaling": LLAMA_31_ROPE})
    new = read(tmp_path, {"rope_parameters": {"rope_theta": 5e5, **LLAMA_31_ROPE}})
    assert old == new


def test_auto_map_is_data_without_effect(tmp_path):
    (tmp_path / "evil.py").write_text("raise SystemExit(1)")
    auto_map = {"AutoModelForCausalLM": "evil.Evil", "AutoConfig": "evil.Evil"}
    assert read(tmp_path, {"auto_map": auto_map}) == read(tmp_path, {})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("vocab_size", 2**40),
        ("vocab_size", "64"),
        ("vocab_size", None),
        ("vocab_size", True),
        ("hidden_size", 0),
        ("hidden_size", 18),
        ("num_hidden_layers", -1),
        ("num_hidden_layers", 2.5),
        ("num_key_value_heads", 3),
        ("head_dim", 7),
        ("intermediate_size", []),
        ("max_position_embeddings", 0),
        ("rms_norm_eps", float("nan")),
        ("rms_norm_eps", "1e-5"),
        ("rope_theta", 0),
        ("rope_theta", float("inf")),
        ("rope_scaling", "yarn"),
        ("tie_word_embeddings", "yes"),
        ("attention_bias", 1),
        ("eos_token_id", 64),
        ("eos_token_id", [1, -1]),
        ("bos_token_id", "1"),
        ("architectures", []),
        ("architectures", "LlamaForCausalLM"),
    ],
)
def test_impossible_value_is_refused_by_the_name_of_its_field(tmp_path, field, value):
    with pytest.raises(BadConfig, match=field) as error:
        read(tmp_path, {field: value})
    assert "config.json" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"architectures": ["BertModel"]}, "BertModel"),
        ({"hidden_act": "mish"}, "hidden_act"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}, "rope_type"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
    ],
)
def test_what_we_do_not_have_is_refused_by_name(tmp_path, changes, named):
    with pytest.raises(UnsupportedModel, match=named):
        read(tmp_path, changes)


@pytest.mark.parametrize(
    ("scaling", "field"),
    [
        ({"rope_type": "linear"}, "factor"),
        ({"rope_type": "linear", "factor": 0.5}, "factor"),
        ({**LLAMA_31_ROPE, "low_freq_factor": None}, "low_freq_factor"),
        ({**LLAMA_31_ROPE, "high_freq_factor": 1.0}, "high_freq_factor"),
        ({"rope_type": "yarn", "factor": "4"}, "factor"),
        ({"rope_type": "yarn", "factor": 4, "original_max_position_embeddings": 0}, "original_max_position_embeddings"),
    ],
)
def test_incomplete_rope_is_refused_by_the_name_of_its_field(tmp_path, scaling, field):
    with pytest.raises(BadConfig, match=f"rope_scaling: .*{field}"):
        read(tmp_path, {"rope_scaling": scaling})


@pytest.mark.parametrize("text", ["", "[]", "{", '"x"', "[" * 100_000, '{"vocab_size": 1' + "0" * 5000 + "}"])
def test_file_that_is_no_json_object_is_refused_in_one_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(BadConfig, match=r"config\.json") as error:
        config_from_directory(tmp_path)
    assert len(str(error.value)) < 300 + len(str(tmp_path))


def test_missing_config_is_refused(tmp_path):
    with pytest.raises(BadConfig, match=r"config\.json"):
        config_from_directory(tmp_path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
FIELDS = [*TINY, "rope_theta", "rope_scaling", "rope_parameters", "eos_token_id", "head_dim", "hidden_act", "dtype"]


@given(changes=st.dictionaries(st.sampled_from(FIELDS), JSON, min_size=1, max_size=3))
def test_any_json_gives_a_config_or_one_line(tmp_path_factory, changes):
    directory = tmp_path_factory.mktemp("config")
    try:
        answer = str(read(directory, changes).architecture)
    except ModelError as error:
        answer = str(error)
    assert "\n" not in answer


def test_reading_a_config_imports_neither_torch_nor_transformers():
    code = (
        "import sys, model.config, model.errors, model.batch, model.families.registry\n"
        "print([name for name in ('torch', 'transformers', 'huggingface_hub') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
