"""Compiles what a step launches for a GPU that isn't there:  python -m tests.gpu.compile_kernels 90 128 4 0 fp8

The numbers are compute capability, head size, query heads of a kv head, and window, 0 for none; then the format of the
KV cache, auto or fp8. The launches are those of a step on CPU tensors, written down instead of run, so none can be
missing here. Prints, as JSON, what each compiled kernel takes. A process of its own, since the other tests' kernels are
interpreted.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from model.attention.triton import TritonAttention
from model.batch import Join, SamplingParams
from model.config import ModelConfig, RopeConfig
from model.description import KvCacheDtype
from model.dtype import cache_dtype
from model.kernels.triton.launches import Card, attention_launches
from model.kernels.triton.layers import use_triton_layers
from model.kernels.triton.sampler import TritonSampler
from model.kv_cache import KVCache
from model.transformer import Transformer
from tests.model_steps import Row, Stepper

SHARED_MEMORY = {80: 166_912, 86: 101_376, 89: 101_376, 90: 232_448, 100: 232_448, 120: 101_376}
"""Bytes that one program may have (CUDA C programming guide, table of technical specifications)."""
OPTIONS = ("num_warps", "num_stages", "enable_fp_fusion")
TYPES = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32", torch.int32: "*i32",
         torch.int64: "*i64", torch.uint8: "*u8", torch.float64: "*fp64"}  # fmt: skip
VOCAB = 128_256
CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
Launch = tuple[Any, tuple[Any, ...], dict[str, Any]]


def launches(capability: int, head_dim: int, group: int, window: int | None, cached: KvCacheDtype) -> list[Launch]:
    """Kernel, arguments and options of all launches of a step that has rows of both kinds."""
    config = ModelConfig(
        architecture="LlamaForCausalLM", vocab_size=32, hidden_size=4096, num_layers=1, num_heads=2 * group,
        num_kv_heads=2, head_dim=head_dim, intermediate_size=2048, activation="silu", norm_eps=1e-5,
        max_position_embeddings=2048, rope=RopeConfig(), sliding_window=window,
    )  # fmt: skip
    stepper = Stepper(Transformer(config, torch.bfloat16, torch.device("cpu")), max_len=64)
    card = Card(132, SHARED_MEMORY[capability])
    stored = cache_dtype(cached, torch.bfloat16)
    cache = KVCache(config, 64, 16, torch.bfloat16, torch.device("cpu"), stored=stored)
    stepper.backend = TritonAttention(config, cache, card, attention_launches(config, card, stored))
    use_triton_layers(stepper.model)
    found: list[Launch] = []

    def run(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        found.append((self, args, kwargs))

    JITFunction.run = run
    stepper.step([Row(0, [1] * 20), Row(1, [1])])
    sampler = TritonSampler(1, VOCAB, (), torch.device("cpu"))
    sampler.join([Join(0, [1], 1, 0, SamplingParams(max_tokens=1))])
    sampler.sample(torch.zeros(1, VOCAB), [0], [1], torch.zeros(1, 1, dtype=torch.int32))
    return found


def compiled(launch: Launch, capability: int) -> dict[str, Any]:
    """What the kernel of a launch takes on that GPU."""
    kernel, args, kwargs = launch
    options = {name: kwargs[name] for name in OPTIONS if name in kwargs}
    values = dict(zip(kernel.arg_names, args, strict=False)) | {k: v for k, v in kwargs.items() if k not in OPTIONS}
    signature, constants, aligned = {}, {}, {}
    for number, name in enumerate(kernel.arg_names):
        value = values[name]
        signature[name] = TYPES[value.dtype] if isinstance(value, Tensor) else "constexpr"
        if isinstance(value, Tensor):
            aligned[(number,)] = [["tt.divisibility", 16]]
        else:
            constants[(number,)] = value
    source = ASTSource(kernel, signature, constants, aligned)
    result = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(result.asm["cubin"])
        file.flush()
        usage = subprocess.run([CUOBJDUMP, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
    taken = {name.lower(): int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    return {
        "kernel": kernel.__name__,
        "is_split": bool(values.get("IS_SPLIT")),
        "shared": result.metadata.shared,
        "uses_wgmma": "wgmma.mma_async" in result.asm["ptx"],
        **taken,
    }


def main() -> None:
    """Print what the kernels of one step take."""
    capability, head_dim, group, window = map(int, sys.argv[1:5])
    cached: KvCacheDtype = "fp8" if sys.argv[5] == "fp8" else "auto"
    unique: dict[str, Launch] = {}
    for launch in launches(capability, head_dim, group, window or None, cached):
        kernel, _, kwargs = launch
        unique.setdefault(f"{kernel.__name__} {sorted(kwargs.items(), key=str)}", launch)
    print(json.dumps([compiled(launch, capability) for launch in unique.values()]))


if __name__ == "__main__":
    main()
