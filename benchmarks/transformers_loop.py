"""The peer: a bare transformers `generate` with a static cache. Prints its best rates as one JSON object.

python benchmarks/transformers_loop.py MODEL_DIR --dtype float32
"""

import argparse
import json
import time

import torch
from transformers import AutoModelForCausalLM

from model.threads import available_cores

# As in the scenarios c1 and prefill of benchmarks/peers.py.
INPUT_LEN, OUTPUT_LEN, LONG_INPUT_LEN = 128, 128, 1024
REPEATS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--dtype", required=True)
    options = parser.parse_args()
    torch.set_num_threads(available_cores())
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype)).eval()

    def seconds(input_len: int, num_tokens: int) -> float:
        prompt = torch.randint(256, 3000, (1, input_len), generator=torch.Generator().manual_seed(0))
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
        seconds(INPUT_LEN, 4)
        turns = [(seconds(INPUT_LEN, 1), seconds(INPUT_LEN, OUTPUT_LEN)) for _ in range(REPEATS)]
        prefill_s = min(seconds(LONG_INPUT_LEN, 1) for _ in range(REPEATS))
    figures = {
        "c1 (tokens/s)": max(OUTPUT_LEN / whole for _, whole in turns),
        "c1, decode (tokens/s)": max((OUTPUT_LEN - 1) / (whole - prefill) for prefill, whole in turns),
        "prefill (tokens/s)": LONG_INPUT_LEN / prefill_s,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
