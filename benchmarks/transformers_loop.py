"""The peer: a bare transformers `generate` with a static cache. Prints decode tokens/s, one line a repeat.

python benchmarks/transformers_loop.py MODEL_DIR --dtype float32
"""

import argparse
import time

import torch
from transformers import AutoModelForCausalLM

from model.threads import available_cores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--input-len", type=int, default=128)
    parser.add_argument("--output-len", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(available_cores())
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype)).eval()
    prompt = torch.randint(256, 10000, (1, options.input_len), generator=torch.Generator().manual_seed(0))

    def seconds(num_tokens: int) -> float:
        started = time.perf_counter()
        model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            min_new_tokens=num_tokens,
            max_new_tokens=num_tokens,
            do_sample=False,
            cache_implementation="static",
            pad_token_id=0,
        )
        return time.perf_counter() - started

    with torch.inference_mode():
        seconds(4)
        for _ in range(options.repeats):
            prefill = seconds(1)
            print((options.output_len - 1) / (seconds(options.output_len) - prefill), flush=True)


if __name__ == "__main__":
    main()
