"""Weight files, whole and damaged."""

import itertools
import json
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from model import loader
from model.errors import BadConfig, ModelError, UnsupportedModel, WeightMismatch
from model.families.registry import config_from_directory
from model.families.weights import Weight
from model.loader import READERS, load_weights
from model.transformer import Transformer

CPU = torch.device("cpu")
Q_PROJ = "model.layers.1.self_attn.q_proj.weight"


@pytest.fixture
def checkpoint(tmp_path) -> Path:
    """A tiny Llama as transformers saves it."""
    torch.manual_seed(1)
    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    config = LlamaConfig(**sizes, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    return tmp_path


def load(directory: Path, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    model = Transformer(config_from_directory(directory), dtype, CPU)
    load_weights(model, directory)
    return dict(model.named_parameters())


def rewrite(directory: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def shard(directory: Path) -> list[Path]:
    """Splits the single file in two, with an index."""
    tensors = load_file(directory / "model.safetensors")
    names = sorted(tensors)
    parts = [names[::2], names[1::2]]
    paths = [directory / f"model-0000{i + 1}-of-00002.safetensors" for i in range(2)]
    for path, part in zip(paths, parts, strict=True):
        save_file({name: tensors[name] for name in part}, path)
    weight_map = {name: path.name for path, part in zip(paths, parts, strict=True) for name in part}
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (directory / "model.safetensors").unlink()
    return paths


def test_every_parameter_is_written(checkpoint):
    model = Transformer(config_from_directory(checkpoint), torch.float32, CPU)
    for parameter in model.parameters():
        parameter.fill_(torch.nan)
    load_weights(model, checkpoint)
    for name, parameter in model.named_parameters():
        assert parameter.isfinite().all(), name


def test_parts_of_merged_matrices_keep_their_order(checkpoint):
    theirs = load_file(checkpoint / "model.safetensors")
    ours = load(checkpoint)
    parts = [theirs[f"model.layers.1.self_attn.{part}_proj.weight"] for part in "qkv"]
    assert ours["layers.1.attention.qkv.weight"].equal(torch.cat(parts))


def test_shards_load_like_a_single_file(checkpoint):
    single = load(checkpoint)
    shard(checkpoint)
    for name, parameter in load(checkpoint).items():
        assert parameter.equal(single[name])


def test_weights_are_converted_to_the_serving_dtype(checkpoint):
    theirs = load_file(checkpoint / "model.safetensors")["model.norm.weight"]
    rewrite(checkpoint, lambda tensors: tensors.update({"model.norm.weight": theirs.half()}))
    parameters = load(checkpoint, torch.bfloat16)
    assert parameters["norm.weight"].equal(theirs.half().bfloat16())
    assert {parameter.dtype for parameter in parameters.values()} == {torch.bfloat16}


def test_progress_runs_from_zero_to_one(checkpoint):
    fractions: list[float] = []
    load_weights(Transformer(config_from_directory(checkpoint), torch.float32, CPU), checkpoint, fractions.append)
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)
    assert len(fractions) > 20


def test_several_tensors_are_read_at_once_and_few_beyond_those_told_of(checkpoint, monkeypatch):
    """The first ones wait for each other."""
    meeting = threading.Barrier(READERS, timeout=10)
    copy, begun, told = loader._copy, [], []

    def copy_together(path: Path, weight: Weight, parameter: Tensor) -> None:
        begun.append(weight.name)
        if len(begun) <= READERS:
            meeting.wait()
        copy(path, weight, parameter)

    def tell(parameter: str) -> None:
        time.sleep(0.01)
        told.append(parameter)
        assert len(begun) <= len(told) + num_merged + READERS

    num_merged = 2 * len(("k", "v", "up"))
    """Tensors that another parameter's telling includes: q, k and v are one, and gate and up."""
    monkeypatch.setattr(loader, "_copy", copy_together)
    load_weights(Transformer(config_from_directory(checkpoint), torch.float32, CPU), checkpoint, filled=tell)
    assert len(told) == 3 + 2 * 6


def test_a_tensor_that_cannot_be_read_ends_the_loading(checkpoint, monkeypatch):
    copy, begun, number = loader._copy, [], itertools.count(1)

    def fail_at_the_fifth(path: Path, weight: Weight, parameter: Tensor) -> None:
        begun.append(weight.name)
        if next(number) == 5:
            raise WeightMismatch("the disk is gone")
        copy(path, weight, parameter)

    monkeypatch.setattr(loader, "_copy", fail_at_the_fifth)
    before = threading.active_count()
    with pytest.raises(WeightMismatch, match="the disk is gone"):
        load(checkpoint)
    assert len(begun) <= 5 + READERS
    assert threading.active_count() == before


def test_rope_tables_and_a_tied_head_are_ignored(checkpoint):
    head = load_file(checkpoint / "model.safetensors")["lm_head.weight"]
    rewrite(
        checkpoint,
        lambda tensors: tensors.update(
            {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2), "lm_head.weight": head * 2}
        ),
    )
    fields = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps({**fields, "tie_word_embeddings": True}))
    assert "head.weight" not in load(checkpoint)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda tensors: tensors.pop(Q_PROJ), f"{Q_PROJ} is missing"),
        (lambda tensors: tensors.update(surplus=torch.ones(1)), "'surplus'"),
        (lambda tensors: tensors.update({Q_PROJ: torch.ones(16, 15)}), rf"{Q_PROJ} has shape \[16, 15\]"),
        (lambda tensors: tensors.update({Q_PROJ: torch.ones(16, 16, 1)}), Q_PROJ),
        (lambda tensors: tensors.update({Q_PROJ: torch.ones(16, 16, dtype=torch.int8)}), f"{Q_PROJ} is I8"),
        (lambda tensors: tensors.update({Q_PROJ: torch.ones(16, 16).to(torch.float8_e4m3fn)}), f"{Q_PROJ} is F8_E4M3"),
    ],
)
def test_tensor_that_does_not_fit_is_named_with_its_file(checkpoint, change, named):
    rewrite(checkpoint, change)
    with pytest.raises(WeightMismatch, match=rf"model\.safetensors: tensor {named}"):
        load(checkpoint)


def test_tensor_in_two_shards_is_refused(checkpoint):
    first, second = shard(checkpoint)
    save_file(load_file(first) | load_file(second), second)
    with pytest.raises(WeightMismatch, match=r"is in model-00001-of-00002\.safetensors as well"):
        load(checkpoint)


def test_missing_shard_is_named(checkpoint):
    _, second = shard(checkpoint)
    second.unlink()
    with pytest.raises(WeightMismatch, match=r"model-00002-of-00002\.safetensors: missing"):
        load(checkpoint)


@pytest.mark.parametrize("name", ["../other.safetensors", "/etc/passwd", 7, "weights.bin", ""])
def test_index_names_only_files_beside_it(checkpoint, name):
    shard(checkpoint)
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {Q_PROJ: name}}))
    with pytest.raises(BadConfig, match="weight_map"):
        load(checkpoint)


def test_file_cut_at_any_kilobyte_is_refused_with_the_tensor_that_was_cut(checkpoint):
    path = checkpoint / "model.safetensors"
    whole = path.read_bytes()
    header_end = 8 + struct.unpack("<Q", whole[:8])[0]
    for length in [*range(0, len(whole), 1024), len(whole) - 1]:
        path.write_bytes(whole[:length])
        place = r"tensor '(model|lm_head)\." if length >= header_end else "its header"
        with pytest.raises(WeightMismatch, match=rf"model\.safetensors: cut short at {length} bytes, within {place}"):
            load(checkpoint)


def entry(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **changes}}


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        json.dumps(entry(shape=[2**40])).encode(),
        json.dumps(entry(shape=[-1])).encode(),
        json.dumps(entry(data_offsets=[4, 0])).encode(),
        json.dumps(entry(data_offsets=[-4, 0])).encode(),
        json.dumps(entry(data_offsets=[1, 5])).encode(),
        json.dumps(entry(data_offsets=[0, 2**63])).encode(),
        json.dumps(entry(dtype="F99")).encode(),
        json.dumps({**entry(), "b": entry()["a"]}).encode(),
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
    ],
)
def test_malformed_header_is_refused_by_the_name_of_the_file(checkpoint, header):
    (checkpoint / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    with pytest.raises(WeightMismatch, match=r"model\.safetensors"):
        load(checkpoint)


@pytest.mark.parametrize("length", [0, 2**31, 2**63, 2**64 - 1])
def test_length_of_the_header_is_not_believed(checkpoint, length):
    path = checkpoint / "model.safetensors"
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    with pytest.raises(WeightMismatch, match=r"model\.safetensors"):
        load(checkpoint)


@given(places=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_mutated_header_never_does_more_than_a_refusal(tmp_path_factory, places):
    directory = tmp_path_factory.getbasetemp() / "mutated"
    directory.mkdir(exist_ok=True)
    path = directory / "model.safetensors"
    fields = {"vocab_size": 8, "hidden_size": 4, "intermediate_size": 4, "num_hidden_layers": 1}
    config = LlamaConfig(**fields, num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=16)
    if not (directory / "whole").exists():
        LlamaForCausalLM(config).save_pretrained(directory)
        path.rename(directory / "whole")
    damaged = bytearray((directory / "whole").read_bytes())
    header_end = 8 + struct.unpack("<Q", damaged[:8])[0]
    for place, byte in places:
        damaged[int(place * header_end)] = byte
    path.write_bytes(damaged)
    try:
        load(directory)
    except ModelError as error:
        assert "model.safetensors" in str(error)  # noqa: PT017 - a mutation may also leave the file valid


def test_pickled_weights_are_refused_without_being_opened(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    (checkpoint / "pytorch_model.bin").write_bytes(b"cos\nsystem\n(S'touch opened'\ntR.")
    with pytest.raises(UnsupportedModel, match=r"pytorch_model\.bin: .*safetensors.*save_pretrained"):
        load(checkpoint)


def test_directory_without_weights_is_refused(checkpoint):
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(WeightMismatch, match=r"no model\.safetensors"):
        load(checkpoint)


def test_loading_never_holds_two_copies_of_the_weights(tmp_path):
    """A model of 200 MB is loaded in a process of its own, whose peak is measured."""
    sizes = {"vocab_size": 1000, "hidden_size": 512, "intermediate_size": 4096, "num_hidden_layers": 7}
    config = LlamaConfig(**sizes, num_attention_heads=8, max_position_embeddings=64)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    code = f"""
from pathlib import Path
import torch
from model.families.registry import config_from_directory
from model.loader import load_weights
from model.transformer import Transformer

def peak_bytes():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

directory = Path({str(tmp_path)!r})
model = Transformer(config_from_directory(directory), torch.float32, torch.device("cpu"))
before = peak_bytes()
load_weights(model, directory)
print((peak_bytes() - before) / sum(parameter.nbytes for parameter in model.parameters()))
"""
    if not Path("/proc/self/status").exists():
        pytest.skip("reads the peak from /proc")
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(answer.stdout) < 1.3
