"""Time to first token that the server adds to the step that computes it: requests for one token, one after another.

python benchmarks/added_ttft.py [URL] [REQUESTS] [PROMPT TOKENS]

The step's time is what the header server-timing gives as `prefill`, which the worker has measured. The rest is parsing,
queueing, and the way to the worker and back to a client on a plain socket.
"""

import json
import random
import re
import socket
import sys
import time
from urllib.parse import urlsplit

from server.bench.percentiles import percentile

URL = "http://127.0.0.1:8000"
NUM_WARM_UP = 20
PREFILL = re.compile(rb"server-timing:.*prefill;dur=([0-9.]+)", re.IGNORECASE)
# Of the prompt's tokens: below what any model has.
MAX_TOKEN_ID = 250


def ask(connection: socket.socket, prompt: list[int]) -> tuple[float, float]:
    """Milliseconds to the first event of the answer, and of the step. Raises SystemExit for an answer without them."""
    body = json.dumps({"prompt": prompt, "max_tokens": 1, "ignore_eos": True, "stream": True}).encode()
    lines = ["POST /v1/completions HTTP/1.1", "host: bench", "content-type: application/json"]
    head = "\r\n".join([*lines, f"content-length: {len(body)}", "", ""]).encode()
    sent, answer, ttft_s = time.perf_counter(), b"", 0.0
    connection.sendall(head + body)
    while not answer.endswith(b"0\r\n\r\n"):
        piece = connection.recv(1 << 16)
        answer += piece
        if not ttft_s and b"data:" in answer:
            ttft_s = time.perf_counter() - sent
        if not piece or not answer.startswith(b"HTTP/1.1 200"):
            raise SystemExit(f"no stream: {answer[:300]!r}")
    prefill = PREFILL.search(answer)
    if prefill is None:
        raise SystemExit(f"no time of a step in {answer[:300]!r}")
    return ttft_s * 1e3, float(prefill[1])


def first_tokens(url: str, num_requests: int, prompt_len: int) -> list[tuple[float, float]]:
    """Of each request, milliseconds to its first token and of the step."""
    target = urlsplit(url)
    rng = random.Random()
    with socket.create_connection((target.hostname, target.port or 80)) as connection:
        prompts = [[rng.randrange(3, MAX_TOKEN_ID) for _ in range(prompt_len)] for _ in range(num_requests)]
        for prompt in prompts[:NUM_WARM_UP]:
            ask(connection, prompt[::-1])
        return [ask(connection, prompt) for prompt in prompts]


def main(url: str = URL, num_requests: str = "200", prompt_len: str = "16") -> None:
    """Measure, and print a line for each percentile."""
    seen = first_tokens(url, int(num_requests), int(prompt_len))
    print("  %   TTFT ms   step   added")
    for percent in (50, 90, 99):
        ttft, step = (percentile(column, percent) for column in zip(*seen, strict=True))
        added = percentile([ttft - step for ttft, step in seen], percent)
        print(f"{percent:3} {ttft:9.2f} {step:6.2f} {added:7.2f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
