"""Tries each client against a live server, in an environment of its own.

    python -m tests.clients.run                  every client
    python -m tests.clients.run litellm llm      some of them
    python -m tests.clients.run --url http://localhost:8000/v1 --model NAME     against a server that runs already
    python -m tests.clients.run --docs           only write docs/clients.md anew

A client is a folder beside this file: `requirements.txt` or `package.json` with its versions, and `check.py` or
`check.mjs`, which prints a line `feature: claim` for what has proved true and fails at the first claim that is not.
The environments are kept in build/clients.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.clients import page
from tests.e2e.server_process import running_server

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "clients"
CHECK_TIMEOUT_S = 600

# No client may ask anything but the server: not for prices, models or data sets, and not to say that it is used.
OFFLINE = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "LANGSMITH_TRACING": "false",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_TELEMETRY": "False",
    "NO_PROXY": "*",
}
# Keys and addresses of other servers, which clients would prefer.
FOREIGN = re.compile(r"(OPENAI|LITELLM|LLM|LANGSMITH|LANGCHAIN|HF|HUGGINGFACE|NEXTTOKEN)_|PYTHONPATH$")


@dataclass(frozen=True, slots=True)
class Client:
    """A folder with a client's check."""

    name: str

    @property
    def source(self) -> Path:
        return HERE / self.name

    @property
    def folder(self) -> Path:
        """Where its environment is."""
        return BUILD / self.name

    @property
    def is_python(self) -> bool:
        return (self.source / "check.py").exists()

    @property
    def pins(self) -> Path:
        """The file with its versions."""
        return self.source / ("requirements.txt" if self.is_python else "package.json")

    @property
    def command(self) -> list[str]:
        """How to run its check, in its folder."""
        return ["venv/bin/python", "check.py"] if self.is_python else ["node", "check.mjs"]


@dataclass(slots=True)
class Outcome:
    """What became of a client."""

    client: Client
    failure: str = ""
    claims: Counter[str] = field(default_factory=Counter)
    """How many proved true, by feature."""
    took_s: float = 0


def main() -> int:
    """The exit status: 1 if a client failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("clients", nargs="*", metavar="CLIENT", help=", ".join(all_clients()))
    parser.add_argument("--url", help="base URL of a server that runs already, ending in /v1")
    parser.add_argument("--model", default="nexttoken-tiny", help="the model to ask that server for")
    parser.add_argument("--docs", action="store_true", help="write docs/clients.md and nothing else")
    arguments = parser.parse_args()
    if arguments.docs:
        page.write()
        return 0
    if unknown := set(arguments.clients) - set(all_clients()):
        parser.error(f"no such client: {', '.join(sorted(unknown))}")
    clients = [Client(name) for name in arguments.clients or all_clients()]
    with _server(arguments.url) as url:
        outcomes = [_try(client, {"BASE_URL": url, "MODEL": arguments.model}) for client in clients]
    print("\n" + table(outcomes))
    return int(any(outcome.failure for outcome in outcomes))


def all_clients() -> list[str]:
    """The names of the folders that hold a check."""
    return sorted(path.parent.name for path in HERE.glob("*/check.*"))


@contextmanager
def _server(url: str | None) -> Iterator[str]:
    if url is not None:
        yield url
        return
    # A field that a client sends and the server doesn't know is a failure too.
    with tempfile.TemporaryDirectory() as folder, running_server(Path(folder), "--strict-fields") as server:
        yield f"{server.url}/v1"


def _try(client: Client, server: dict[str, str]) -> Outcome:
    outcome, started = Outcome(client), time.monotonic()
    print(f"\n{client.name}", flush=True)
    try:
        _install(client)
        kept = {name: value for name, value in os.environ.items() if not FOREIGN.match(name)}
        for line in _lines(client, kept | OFFLINE | server):
            print(f"  {line}", flush=True)
            outcome.claims[line.partition(":")[0]] += 1
        outcome.failure = "" if outcome.claims else "checked nothing"
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        print(str(error.stderr or error.output or error)[-4000:], file=sys.stderr, flush=True)
        outcome.failure = "failed"
    outcome.took_s = time.monotonic() - started
    return outcome


def _install(client: Client) -> None:
    """Make the environment, unless one of these versions is there."""
    installed = client.folder / "installed"
    if not installed.exists() or installed.read_text() != client.pins.read_text():
        shutil.rmtree(client.folder, ignore_errors=True)
        client.folder.mkdir(parents=True)
        shutil.copy(client.pins, client.folder)
        print("  installing", flush=True)
        for command in _install_commands(client):
            subprocess.run(command, cwd=client.folder, check=True, capture_output=True, text=True)
        shutil.copy(client.pins, installed)
    # Beside its packages, where Node looks for them.
    shutil.copytree(client.source, client.folder, dirs_exist_ok=True)
    for shared in HERE.glob("claims.*"):
        shutil.copy(shared, client.folder)


def _install_commands(client: Client) -> list[list[str]]:
    if not client.is_python:
        return [["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts"]]
    pip = ["venv/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    return [[sys.executable, "-m", "venv", "venv"], [*pip, "--requirement", client.pins.name]]


def _lines(client: Client, environment: dict[str, str]) -> list[str]:
    """What the check printed. Raises CalledProcessError with its output."""
    done = subprocess.run(
        client.command, cwd=client.folder, env=environment, capture_output=True, text=True, timeout=CHECK_TIMEOUT_S
    )
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, client.command, stderr=done.stdout + done.stderr)
    return [line for line in done.stdout.splitlines() if re.match(r"\w+: ", line)]


def table(outcomes: Sequence[Outcome]) -> str:
    """A row for each client: its version, and how many claims about each feature proved true."""
    features = sorted({feature for outcome in outcomes for feature in outcome.claims})
    rows = [("client", "version", *features, "result", "seconds")]
    for outcome in outcomes:
        counts = [str(outcome.claims[feature] or "") for feature in features]
        version = page.version(outcome.client.pins)
        rows.append((outcome.client.name, version, *counts, outcome.failure or "passed", f"{outcome.took_s:.0f}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)


if __name__ == "__main__":
    sys.exit(main())
