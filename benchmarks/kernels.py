"""The CPU kernels beside torch's own and beside this machine's limits, in turn, in one run.

python benchmarks/kernels.py                 # two threads
python benchmarks/kernels.py --threads 1 --level avx2
"""

import argparse
import time
from collections.abc import Callable
from itertools import cycle

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from model.attention.base import StepTensors
from model.attention.cpu import CpuAttention
from model.attention.torch import TorchAttention
from model.config import ModelConfig, RopeConfig
from model.kernels.cpu.layers import CpuLinear
from model.kernels.cpu.layout import LINE_INPUTS, pack
from model.kernels.cpu.library import CpuKernels
from model.kv_cache import KVCache

OUTPUTS, INPUTS = 8192, 2048
ROWS = (1, 2, 4, 8, 16, 64, 512)
CONTEXTS = (512, 4096)
SEQUENCES = 16
ROUNDS = 5
CPU = torch.device("cpu")
HEADS = ModelConfig(
    architecture="LlamaForCausalLM",
    vocab_size=32,
    hidden_size=2048,
    num_layers=1,
    num_heads=32,
    num_kv_heads=8,
    head_dim=64,
    intermediate_size=64,
    activation="silu",
    norm_eps=1e-5,
    max_position_embeddings=8192,
    rope=RopeConfig(),
)


def best_of_each(*functions: Callable[[], object]) -> list[float]:
    """Seconds of the fastest call of each, called in turn for a while."""
    best = [float("inf")] * len(functions)
    for _ in range(ROUNDS):
        for i, function in enumerate(functions):
            ends = time.perf_counter() + 0.1
            while True:
                started = time.perf_counter()
                function()
                now = time.perf_counter()
                best[i] = min(best[i], now - started)
                if now > ends:
                    break
    return best


def products(kernels: CpuKernels) -> None:
    weight = torch.randn(OUTPUTS, INPUTS)
    probe = torch.zeros(2**25, dtype=torch.int64)  # 256 MiB: larger than any cache
    ours = {name: CpuLinear(kernels, pack(kernels, weight, name)) for name in LINE_INPUTS}
    theirs = {"float32": weight, "bfloat16": weight.bfloat16()}
    print(f"\nproducts with {OUTPUTS} x {INPUTS} weights: ms (GB/s of weights, GFLOP/s); below each torch's own\n")
    print("| weights |", " | ".join(f"{rows} rows" for rows in ROWS), "|\n|---|" + "---|" * len(ROWS))
    reading = []
    for name, linear in ours.items():
        cells, torch_cells = [], []
        for rows in ROWS:
            x = torch.randn(rows, INPUTS)
            calls: list[Callable[[], object]] = [lambda linear=linear, x=x: linear(x), lambda: probe.max()]
            if name in theirs:
                x_theirs, weight_theirs = x.to(theirs[name].dtype), theirs[name]
                calls.append(lambda x=x_theirs, weight=weight_theirs: functional.linear(x, weight))
            seconds, reading_s, *torch_s = best_of_each(*calls)
            reading.append(reading_s)
            flops = 2 * rows * OUTPUTS * INPUTS
            num_bytes = linear.weight.num_bytes
            cells.append(f"{seconds * 1e3:.2f} ({num_bytes / seconds / 1e9:.0f}, {flops / seconds / 1e9:.0f})")
            torch_cells += [f"{s * 1e3:.2f} ({flops / s / 1e9:.0f})" for s in torch_s]
        print(f"| {name} |", " | ".join(cells), "|", flush=True)
        if torch_cells:
            print("| torch |", " | ".join(torch_cells), "|", flush=True)
    print(f"\nreading 256 MiB (max over int64): {probe.numel() * 8 / min(reading) / 1e9:.1f} GB/s at best")


def attention(kernels: CpuKernels) -> None:
    """One sequence a call, each one in turn, so that none finds its cache in the processor's."""
    print("\ndecode attention, one of 16 sequences, 32 heads over 8 of 64: us (GB/s of cache)\n")
    print("| cache | context | ours | torch | ours over reading 256 MiB |\n|---|---|---|---|---|")
    probe = torch.zeros(2**25, dtype=torch.int64)
    for dtype in (torch.float32, torch.bfloat16):
        for context in CONTEXTS:
            num_blocks = SEQUENCES * context // 16
            tables = np.random.default_rng(0).permutation(num_blocks).astype(np.int32).reshape(SEQUENCES, -1)
            cache = KVCache(HEADS, num_blocks, 16, dtype, CPU)
            ours = CpuAttention(kernels, HEADS, num_blocks, 16, dtype)
            for part in (*cache.layers[0], *ours.layers[0]):
                part.normal_()
            q, k, v = (torch.randn(1, heads, 64) for heads in (32, 8, 8))
            calls: list[Callable[[], object]] = []
            for backend, kind in ((ours, torch.float32), (TorchAttention(HEADS, cache), dtype)):
                inputs = [x.to(kind) for x in (q, k, v)]
                steps = cycle([_step(backend, row, context) for row in np.split(tables, SEQUENCES)])
                calls.append(lambda b=backend, i=inputs, s=steps: b.attend(0, *i, next(s)))
            *seconds, reading_s = best_of_each(*calls, lambda: probe.max())
            num_bytes = 2 * context * HEADS.kv_size * dtype.itemsize
            cells = [f"{s * 1e6:.0f} ({num_bytes / s / 1e9:.1f})" for s in seconds]
            share = num_bytes / seconds[0] / (probe.nbytes / reading_s)
            print(
                f"| {str(dtype).removeprefix('torch.')} | {context} |",
                " | ".join(cells),
                f"| {share:.2f} |",
                flush=True,
            )


def _step(backend: CpuAttention | TorchAttention, table_1B: NDArray[np.int32], context: int) -> StepTensors:
    """The last token of a context."""
    last = torch.tensor([int(table_1B[0, -1]) * 16 + 15])
    plan = backend.plan(np.array([0]), np.array([context - 1]), np.array([1]), table_1B)
    return StepTensors(last, last, last, plan)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--level", help="instruction set; default: the best one here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    own = CpuKernels(options.threads, options.level)
    print(f"{own.level}, {options.threads} threads, torch {torch.__version__}")
    with torch.inference_mode():
        products(own)
        attention(own)
