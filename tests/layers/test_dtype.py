"""The dtype that `auto` picks."""

import dataclasses

import pytest
import torch

from model.dtype import serving_dtype
from model.errors import UnsupportedModel
from tests.small_config import small_config

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
CONFIG = small_config()


def auto(device: torch.device, stored: str | None) -> torch.dtype:
    return serving_dtype("auto", dataclasses.replace(CONFIG, stored_dtype=stored), device, has_cpu_kernels=False)


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx2": True, "avx512_f": True}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"avx512_bf16": False, "amx_bf16": True}, torch.bfloat16),
        ({"neon": True}, torch.float32),
    ],
)
def test_torch_takes_bfloat16_on_a_cpu_only_where_it_multiplies_it_in_hardware(monkeypatch, capabilities, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)
    assert auto(CPU, "float32") == dtype
    assert auto(CPU, "float16") == dtype


def test_our_cpu_kernels_take_bfloat16_whatever_the_processor_multiplies(monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True})
    assert serving_dtype("auto", CONFIG, CPU, has_cpu_kernels=True) == torch.bfloat16


@pytest.mark.parametrize(
    ("stored", "has_bfloat16", "dtype"),
    [
        ("float16", True, torch.float16),
        ("bfloat16", True, torch.bfloat16),
        ("float32", True, torch.bfloat16),
        (None, True, torch.bfloat16),
        ("bfloat16", False, torch.float16),
    ],
)
def test_gpu_takes_the_16_bits_of_the_checkpoint(monkeypatch, stored, has_bfloat16, dtype):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: has_bfloat16)
    assert auto(CUDA, stored) == dtype


def test_a_named_dtype_is_taken_and_an_unknown_one_refused():
    assert serving_dtype("float16", CONFIG, CPU, has_cpu_kernels=True) == torch.float16
    with pytest.raises(UnsupportedModel, match="int3"):
        serving_dtype("int3", CONFIG, CPU, has_cpu_kernels=True)
