"""Speed through HTTP beside a bare transformers loop, in turn, on the same weights and dtype.

make bench                          # llama-135m shape, dtype auto
make bench ARGS="--dtype float32 --repeats 5"
"""

import argparse
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from load import Scenario, run_load
from make_model import SHAPES, make_model

ROOT = Path(__file__).parent.parent
ONE = Scenario("one stream", num_streams=1, num_requests=2, input_len=128, output_len=128)
SIXTEEN = Scenario("16 streams", num_streams=16, num_requests=32, input_len=128, output_len=64)
PREFILL = Scenario("prefill", num_streams=1, num_requests=3, input_len=1024, output_len=2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama-135m")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--repeats", type=int, default=3, help="rounds of server, then loop")
    options = parser.parse_args()
    directory = ROOT / "build" / options.shape
    make_model(options.shape, directory)
    rows: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        rows.setdefault(name, []).append(value)
        print(f"  {name:<42}{value:>10.2f}", flush=True)

    for number in range(options.repeats):
        print(f"round {number + 1} of {options.repeats}")
        with running_server(directory, options.dtype) as (url, dtype, start_s):
            note("start to ready (s)", start_s)
            run_load(url, Scenario("warm-up", 4, 4, 64, 8))
            one = run_load(url, ONE, number).decode_rate
            many = run_load(url, SIXTEEN, number).output_rate
            note("one stream, decode (tokens/s)", one)
            note("16 streams, all together (tokens/s)", many)
            note("prefill (tokens/s)", PREFILL.input_len / run_load(url, PREFILL, number).first_token_s)
        loop = transformers_loop(directory, dtype)
        note("transformers, static cache (tokens/s)", loop)
        note("one stream / transformers", one / loop)
        note("16 streams / one stream", many / one)
    print(f"\n{options.shape}, {dtype}, {options.repeats} rounds\n")
    print("| measure | median | least | most |\n|---|---|---|---|")
    for name, values in rows.items():
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} | {max(values):.2f} |")


@contextmanager
def running_server(directory: Path, dtype: str) -> Iterator[tuple[str, str, float]]:
    """Its address, the dtype it chose, and the seconds from start to ready."""
    started = time.perf_counter()
    # A model of random weights says the same again and again, which drafts would make several times as fast.
    settings = ["--port", "0", "--dtype", dtype, "--no-speculation"]
    process = subprocess.Popen(
        [sys.executable, "-m", "server.cli", "serve", str(directory), *settings],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        said = ""
        while not (found := re.search(r"API\s+(http://\S+)/v1", said)):
            line = process.stdout.readline()
            assert line, "the server ended before it was ready"
            said += line
        url = found[1].replace("localhost", "127.0.0.1")
        assert httpx.get(url + "/ready").status_code == 200
        chosen = re.search(r"computes\s+in (\w+)", said)
        assert chosen is not None
        yield url, chosen[1], time.perf_counter() - started
    finally:
        process.terminate()
        process.wait(timeout=30)


def transformers_loop(directory: Path, dtype: str) -> float:
    """Decode tokens/s of the peer: the best of its repeats, which are in its favour."""
    command = [sys.executable, "benchmarks/transformers_loop.py", str(directory), "--dtype", dtype]
    output = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=_environment()).stdout
    return max(float(line) for line in output.split())


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}


if __name__ == "__main__":
    main()
