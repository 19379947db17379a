"""From a checkpoint to a runner: what is chosen, what is reported, and what is refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import build, cache_size
from model.batch import NOT_SAMPLED
from model.build import build_runner
from model.cache_size import largest_batch
from model.description import ModelInfo, RunnerOptions
from model.errors import NotEnoughMemory, UnsupportedModel, WeightMismatch
from model.runner import ModelRunner
from server.settings import Settings
from tests.engine.generation import EOS, MAX_MODEL_LEN, VOCAB, save_llama

BLOCK_BYTES = 2 * 2 * 16 * 16 * 4
"""Two layers' keys and values of 16 tokens: 2 heads of 8 numbers in float32."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("llama")
    save_llama(directory)
    return directory


def build_with(directory: Path, **options) -> tuple[ModelRunner, ModelInfo]:
    chosen = {
        "device": "cpu",
        "dtype": "float32",
        "kernels": "torch",  # our own pad a head's values, so the sizes below would be others
        "num_threads": 1,
        "max_num_seqs": 4,
        **options,
    }
    return build_runner(RunnerOptions(model_dir=str(directory), **chosen), lambda phase, fraction: None)


def test_the_facts_are_those_of_the_checkpoint(checkpoint):
    _, model = build_with(checkpoint, kv_cache_bytes=20 * BLOCK_BYTES + 5)
    tensors = load_file(checkpoint / "model.safetensors").values()
    assert model == ModelInfo(
        architecture="LlamaForCausalLM",
        num_parameters=sum(tensor.numel() for tensor in tensors),
        dtype="float32",
        device="cpu",
        attention="torch",
        kernels="torch, as --kernels torch says so",
        vocab_size=VOCAB,
        max_model_len=MAX_MODEL_LEN,
        max_num_seqs=4,
        max_step_tokens=512,
        block_size=16,
        kv_cache_dtype="float32",
        num_blocks=20,
        eos_token_ids=list(EOS),
        bos_token_id=1,
        weights_bytes=4 * sum(tensor.numel() for tensor in tensors),
        kv_cache_bytes=20 * BLOCK_BYTES,
    )


def test_the_cache_takes_a_quarter_of_what_is_left_on_a_cpu(checkpoint, monkeypatch):
    monkeypatch.setattr(cache_size, "available_memory", lambda: 4 * 11 * BLOCK_BYTES)
    assert build_with(checkpoint)[1].num_blocks == 11


def test_the_cache_is_no_larger_than_all_slots_can_fill(checkpoint):
    _, model = build_with(checkpoint, max_model_len=50, kv_cache_bytes=2**30)
    assert model.num_blocks == 16 * 4, "sixteen sequences' worth is kept although four run at once"


def test_a_cache_too_small_for_one_sequence_is_refused_with_both_sizes(checkpoint, monkeypatch):
    with pytest.raises(NotEnoughMemory, match="--max-model-len or raise --kv-cache-memory-bytes"):
        build_with(checkpoint, kv_cache_bytes=8 * BLOCK_BYTES - 1)
    assert build_with(checkpoint, kv_cache_bytes=8 * BLOCK_BYTES)[1].num_blocks == 8
    monkeypatch.setattr(cache_size, "available_memory", lambda: 0)
    with pytest.raises(NotEnoughMemory, match=rf"0\.00 MiB.*{MAX_MODEL_LEN} tokens takes 0\.03 MiB"):
        build_with(checkpoint)


def test_fp8_keys_and_values_take_their_bytes(checkpoint):
    """A quarter of float32's: four times the blocks of the same memory."""
    _, model = build_with(checkpoint, kv_cache_bytes=8 * BLOCK_BYTES, kv_cache_dtype="fp8")
    assert (model.kv_cache_dtype, model.num_blocks) == ("fp8", 32)
    assert model.kv_cache_bytes == 8 * BLOCK_BYTES


def test_a_shorter_context_is_taken_and_a_longer_one_refused(checkpoint):
    assert build_with(checkpoint, max_model_len=33)[1].max_model_len == 33
    with pytest.raises(UnsupportedModel, match="--max-model-len 129 is more than the model's own 128"):
        build_with(checkpoint, max_model_len=129)


def test_a_step_has_room_for_every_running_sequence(checkpoint):
    assert build_with(checkpoint, max_num_seqs=40, max_step_tokens=16)[1].max_step_tokens == 40


@pytest.mark.parametrize("device", ["tpu", "meta", "cuda:x", ""])
def test_an_unknown_device_is_refused(checkpoint, device):
    with pytest.raises(UnsupportedModel, match=rf"device '{device}' is not .*; auto, cpu and cuda are"):
        build_with(checkpoint, device=device)


def test_cuda_without_a_gpu_is_refused(checkpoint, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UnsupportedModel, match="no usable GPU"):
        build_with(checkpoint, device="cuda")
    assert build_with(checkpoint, device="auto")[1].device == "cpu"


def test_an_unknown_dtype_is_refused(checkpoint):
    with pytest.raises(UnsupportedModel, match="dtype 'int3' is not supported"):
        build_with(checkpoint, dtype="int3")


def test_bad_weights_are_refused(checkpoint, tmp_path):
    (tmp_path / "config.json").write_bytes((checkpoint / "config.json").read_bytes())
    tensors = load_file(checkpoint / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightMismatch, match=r"model\.norm\.weight is missing"):
        build_with(tmp_path)


def test_progress_names_its_phases_in_order(checkpoint):
    told: list[tuple[str, float]] = []
    options = RunnerOptions(model_dir=str(checkpoint), device="cpu", num_threads=1, kv_cache_bytes=2**20)
    build_runner(options, lambda phase, fraction: told.append((phase, fraction)))
    assert list(dict.fromkeys(phase for phase, _ in told)) == ["loading weights", "warming up"]
    fractions = [fraction for phase, fraction in told if phase == "loading weights"]
    assert fractions == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0.0, 1.0)


def test_the_setting_of_threads_tells_when_one_is_the_default():
    assert f"{build.ONE_THREAD_BYTES >> 20} MiB or less" in (Settings.model_fields["num_threads"].description or "")


def test_threads_are_as_many_as_asked_for(checkpoint):
    before = torch.get_num_threads()
    try:
        _, own = build_with(checkpoint, num_threads=2)
        assert own.num_threads == 2
        if own.kernels.startswith("own"):
            assert torch.get_num_threads() == 1, "torch's would spin on the cores of the kernels'"
        _, plain = build_with(checkpoint, num_threads=2, kernels="torch")
        assert plain.num_threads == torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("sizes", [(4, 32, 100), (1, 512, 100), (4, 4, 128), (1, 1, 1)])
def test_the_largest_step_fills_every_slot_and_runs(checkpoint, sizes):
    max_num_seqs, max_step_tokens, max_model_len = sizes
    batch = largest_batch(max_num_seqs, max_step_tokens, max_model_len, 16)
    ends = [computed + new for computed, new in zip(batch.num_computed, batch.num_new, strict=True)]
    assert ends == [max_model_len] * max_num_seqs
    assert sum(batch.num_new) == min(max_step_tokens, max(1, max_model_len - 1) + max_num_seqs - 1)
    runner, _ = build_with(checkpoint, max_num_seqs=max_num_seqs)
    assert NOT_SAMPLED not in runner.run(batch).token_ids
