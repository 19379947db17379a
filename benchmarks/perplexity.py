"""What rounding costs: perplexity of the bundled model on documents that it was not trained on, for each weight format,
and with keys and values in fp8.

python benchmarks/perplexity.py
"""

import argparse
import math
from itertools import islice
from pathlib import Path

from tokenizers import Tokenizer

from model.batch import Batch, Join, SamplingParams
from model.build import build_runner
from model.demo.corpus import documents
from model.demo.evaluation import HELD_OUT_SEED
from model.demo.packing import IGNORED, encode
from model.demo.recipe import WHOLE
from model.description import RunnerOptions
from model.runner import ModelRunner

BUNDLED = Path(__file__).parent.parent / "model" / "demo" / "bundled"
FORMATS = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"quantization": "int8"},
    "int4": {"quantization": "int4"},
    "float32, fp8 KV cache": {"dtype": "float32", "kernels": "torch", "kv_cache_dtype": "fp8"},
}
NUM_DOCUMENTS = 300


def negative_log_likelihood(runner: ModelRunner, token_ids: list[int], labels: list[int]) -> tuple[float, int]:
    """Nats over the learned tokens, and their number."""
    num_tokens, num_blocks = len(token_ids), -(-len(token_ids) // runner.block_size)
    params = SamplingParams(max_tokens=1, prompt_logprobs=0)
    batch = Batch(
        slots=[0],
        num_computed=[0],
        num_new=[num_tokens],
        is_sampled=[False],
        joins=[Join(0, token_ids, num_tokens, 0, params)],
        block_slots=[0] * num_blocks,
        block_indexes=list(range(num_blocks)),
        block_ids=list(range(num_blocks)),
    )
    listed = runner.run(batch).prompt_logprobs[0]
    learned = [entry.chosen for entry, label in zip(listed, labels[1:], strict=True) if label != IGNORED]
    return -sum(learned), len(learned)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path, default=BUNDLED, help="of a model with the same tokens")
    directory = parser.parse_args().directory
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    texts = [encode(tokenizer, document) for _, document in islice(documents(HELD_OUT_SEED, WHOLE, 4), NUM_DOCUMENTS)]
    print("| weights | size | perplexity | over float32 |\n|---|---|---|---|")
    first = None
    for name, options in FORMATS.items():
        runner, info = build_runner(RunnerOptions(model_dir=str(directory), device="cpu", **options), lambda *_: None)
        longest = info.max_model_len
        parts = [negative_log_likelihood(runner, t.token_ids[:longest], t.labels[:longest]) for t in texts]
        perplexity = math.exp(sum(nats for nats, _ in parts) / sum(count for _, count in parts))
        first = first or perplexity
        size = info.weights_bytes / 2**20
        print(f"| {name} | {size:.1f} MiB | {perplexity:.4f} | {100 * (perplexity / first - 1):+.2f} % |", flush=True)


if __name__ == "__main__":
    main()
