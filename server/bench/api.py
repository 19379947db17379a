"""`nexttoken bench api`: what the API processes alone can push, in front of a worker that computes nothing."""

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from server.bench.answer import Seen
from server.bench.clients import LoadFailed, run_load
from server.bench.instant import MAX_STREAMS as MAX_STREAMS
from server.bench.load import LoadPlan
from server.bench.null_server import null_server
from server.bench.percentiles import percentile
from server.bench.summary import duration
from server.bench.table import table
from server.bench.workload import Common, Shape, drawn
from server.child import child_command
from server.settings import variable

_INPUT_LEN = 16
# Each stream's place is taken by so many requests, one after the other.
_ROUNDS = 3


def bench_api(
    num_streams: Sequence[int], num_tokens: int, num_clients: int, num_api_processes: int = 1, step_ms: int = 0
) -> list[dict[str, Any]]:
    """Measure with each number of streams at once, print a line for each. Raises LoadFailed.

    `num_clients`: processes that send the load. `step_ms`: how long a step lasts; 0 for as long as it takes.
    """
    results = []
    with _instant_server(num_api_processes, step_ms) as (url, pid):
        for streams in num_streams:
            plan = _plan(url, streams, num_tokens)
            before = _cpu_of_server(pid)
            seen = run_load(plan, min(streams, num_clients))
            hub_s, children_s = (after - then for after, then in zip(_cpu_of_server(pid), before, strict=True))
            results.append(_summary(streams, seen, hub_s + children_s))
            # With the warm-up's.
            num_steps = num_tokens * (_ROUNDS + 1)
            results[-1]["hub_us_per_step"] = hub_s / num_steps * 1e6 if num_api_processes > 1 else float("nan")
    with null_server() as url:
        for result in results:
            streams = result["streams"]
            seen = run_load(_plan(url, streams, num_tokens), min(streams, num_clients))
            result["client_ceiling"] = sum(len(one.text_times) for one in seen) / duration(seen)
    print(table(list(_COLUMNS.values()), [[result[name] for name in _COLUMNS] for result in results]))
    return results


_COLUMNS = {
    "streams": "streams",
    "chunks_per_s": "chunks/s",
    "tokens_per_s": "tokens/s",
    "cpu_us_per_token": "CPU us/token",
    "hub_us_per_step": "hub us/step",
    "ttft_p50_ms": "TTFT p50 ms",
    "ttft_p99_ms": "p99",
    "client_ceiling": "client's ceiling",
}


def _summary(streams: int, results: Sequence[Seen], cpu_s: float) -> dict[str, Any]:
    for seen in results:
        if seen.error:
            raise LoadFailed(f"a request failed: {seen.error}")
    num_tokens = sum(seen.num_output for seen in results)
    ttft_ms = [(seen.text_times[0] - seen.due_at) * 1e3 for seen in results]
    return {
        "streams": streams,
        "chunks_per_s": sum(len(seen.text_times) for seen in results) / duration(results),
        "tokens_per_s": num_tokens / duration(results),
        # With the warm-up's.
        "cpu_us_per_token": cpu_s / (num_tokens * (_ROUNDS + 1) / _ROUNDS) * 1e6,
        "ttft_p50_ms": percentile(ttft_ms, 50),
        "ttft_p99_ms": percentile(ttft_ms, 99),
    }


def _plan(url: str, streams: int, num_tokens: int) -> LoadPlan:
    shape = Shape(input_len=_INPUT_LEN, output_len=num_tokens)
    return LoadPlan(
        base_url=url,
        api_key="",
        common=Common("nexttoken-tiny", ignores_eos=True),
        warm_up=drawn(shape, streams, "warm-up"),
        sessions=drawn(shape, streams * _ROUNDS, "measured"),
        concurrency=streams,
    )


@contextmanager
def _instant_server(num_api_processes: int, step_ms: int) -> Iterator[tuple[str, int]]:
    """Its URL and process id."""
    # As it is set up without any settings, whatever those of the shell are for.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(variable(""))}
    command = child_command("server.bench.instant", str(num_api_processes), str(step_ms))
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        process_group=0,  # Ctrl-C is for this process, with which its input ends
    ) as process:
        yield _url_in_banner(process), process.pid


def _url_in_banner(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    for line in process.stdout:
        if found := re.search(r"API\s+(http://\S+)/v1", line):
            return found[1].replace("localhost", "127.0.0.1")
    raise LoadFailed("the server ended before it was ready; its words are above")


def _cpu_of_server(pid: int) -> tuple[float, float]:
    """Processor time of a process, and of its children together, as `cpu_seconds`."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return float("nan"), float("nan")
    return cpu_seconds(pid), sum(cpu_seconds(int(child)) for child in children)


def cpu_seconds(pid: int) -> float:
    """Processor time that a process has used; NaN where the system has no /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
