"""Hostile grammars against a running server, beside a stream: the slowest answer, and the longest pause of the stream.

python benchmarks/hostile.py [URL] [ROUNDS]
"""

import json
import multiprocessing
import sys
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests.constraint.hostile import bodies

URL = "http://127.0.0.1:8000"
NUM_SLOWEST = 5


def stream(url: str, is_over: Event, results: Connection) -> None:
    """Read one stream after another, and say when the longest pauses within them were, in seconds by the clock."""
    pauses: list[tuple[float, float]] = []
    body = {"prompt": "Once", "max_tokens": 400, "ignore_eos": True, "stream": True}
    with httpx.Client(base_url=url, timeout=60) as http:
        while not is_over.is_set():
            with http.stream("POST", "/v1/completions", json=body) as answer:
                answer.raise_for_status()
                before = None
                for _ in answer.iter_raw():
                    now = time.monotonic()
                    if before is not None:
                        pauses.append((now - before, before))
                    before = now
    results.send((len(pauses), sorted(pauses, reverse=True)[:NUM_SLOWEST]))


def measure(url: str) -> None:
    """Send all of them, one after another, and print what came of it."""
    is_over, (results, sender) = multiprocessing.Event(), multiprocessing.Pipe(duplex=False)
    reader = multiprocessing.Process(target=stream, args=(url, is_over, sender))
    reader.start()
    answers: list[tuple[float, float, int, str]] = []
    with httpx.Client(base_url=url, timeout=60) as http:
        for hostile in bodies():
            # Encoded here: half of a surrogate pair is no text, but can be written in JSON.
            content = json.dumps({"prompt": "x", "max_tokens": 3, **hostile}).encode()
            sent = time.monotonic()
            answer = http.post("/v1/completions", content=content, headers={"content-type": "application/json"})
            answers.append((time.monotonic() - sent, sent, answer.status_code, content[40:110].decode()))
    is_over.set()
    num_chunks, pauses = results.recv()
    reader.join()
    statuses = [status for _, _, status, _ in answers]
    print(f"{len(answers)} requests: {', '.join(f'{statuses.count(s)} x {s}' for s in sorted(set(statuses)))}")
    for seconds, _, status, text in sorted(answers, reverse=True)[:NUM_SLOWEST]:
        print(f"  answer  {seconds * 1000:5.0f} ms  {status}  {text}")
    print(f"{num_chunks} chunks")
    for seconds, began in pauses:
        during = [text for took, sent, _, text in answers if sent < began + seconds and began < sent + took]
        print(f"  pause   {seconds * 1000:5.0f} ms  during {during[:2]}")


if __name__ == "__main__":
    for _ in range(int(sys.argv[2]) if len(sys.argv) > 2 else 1):
        measure(sys.argv[1] if len(sys.argv) > 1 else URL)
