"""Two API processes on one port: they answer as one, and die as several."""

import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import psutil
import pytest

from tests.e2e.server_process import ServerProcess, events, running_server

STORY = {"prompt": "Once upon a time", "max_tokens": 300, "temperature": 0, "ignore_eos": True}
RESUMABLE = {"x-resumable": "1"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    folder = tmp_path_factory.mktemp("server")
    arguments = ("--dtype", "float32", "--api-processes", "2", "--store-path", str(folder / "chats.sqlite"))
    with running_server(folder, *arguments) as running:
        yield running


@pytest.fixture
def clients(server: ServerProcess) -> Iterator[list[httpx.Client]]:
    """A connection to each process: they are dealt out in turn."""
    with ExitStack() as stack:
        clients = [stack.enter_context(httpx.Client(base_url=server.url, timeout=60)) for _ in range(2)]
        for client in clients:
            client.get("/version")
        yield clients


def api_processes(server: ServerProcess) -> list[psutil.Process]:
    children = psutil.Process(server.process.pid).children()
    return [child for child in children if "server.hub.api_process" in child.cmdline()]


def process_of(server: ServerProcess, request_id: str) -> str:
    """Which process the log line of a request is from. It is written after the answer."""
    mark = f"event=request id={request_id} "
    server.wait_until(lambda: mark in server.log.read_text())
    (line,) = [line for line in server.log.read_text().splitlines() if mark in line]
    return line.split()[3]


def text_of(lines: Iterable[str]) -> str:
    # All of them: a connection whose answer was not read to its end is not used again.
    return "".join(choice["text"] for event in events(iter(list(lines))) for choice in event["choices"])


def stream(client: httpx.Client, **body: object) -> str:
    with client.stream("POST", "/v1/completions", json={**STORY, "stream": True, **body}) as response:
        assert response.status_code == 200
        return text_of(response.iter_lines())


def test_connections_go_to_the_processes_in_turn_and_the_log_says_to_which(server: ServerProcess) -> None:
    for number in range(4):
        httpx.get(server.url + "/version", headers={"x-request-id": f"turn-{number}"})
    turns = [process_of(server, f"turn-{number}") for number in range(4)]
    assert turns[:2] == turns[2:]
    assert set(turns) == {"api-0", "api-1"}


def test_both_give_the_same_answers(clients: list[httpx.Client]) -> None:
    bodies = [
        STORY,
        {**STORY, "temperature": 1, "seed": 7, "n": 2, "logprobs": 2, "max_tokens": 20},
        {**STORY, "max_tokens": 40, "structured_outputs": {"regex": "[a-z]{3,9}"}, "ignore_eos": False},
        {**STORY, "max_tokens": 0},
    ]
    for body in bodies:
        answers = [client.post("/v1/completions", json=body).json() for client in clients]
        assert len({json.dumps(answer.get("choices", answer)) for answer in answers}) == 1
    assert stream(clients[0]) == stream(clients[1])
    for path in ("/v1/models", "/version", "/health", "/tokenizer_info"):
        assert clients[0].get(path).content == clients[1].get(path).content
    costs = [client.post("/tokenize", json={"prompt": STORY["prompt"] * 20}).json() for client in clients]
    assert costs[0] == costs[1]
    assert costs[0]["expected_ttft_s"] is not None


def test_counts_are_of_both_and_never_go_back(server: ServerProcess, clients: list[httpx.Client]) -> None:
    def answered(client: httpx.Client) -> float:
        lines = client.get("/metrics").text.splitlines()
        name = 'nexttoken:http_requests_total{endpoint="/v1/completions",status="2xx"}'
        return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)

    seen = []
    for client in clients * 2:
        client.post("/v1/completions", json={**STORY, "max_tokens": 10})
        seen += [answered(clients[0]), answered(clients[1])]
    assert seen == sorted(seen)
    # A line is written after its answer is counted.
    server.wait_until(lambda: answered(clients[0]) == server.log.read_text().count('/completions" status=200'))
    logged = answered(clients[0])
    assert answered(clients[1]) == logged
    assert server.metric("e2e_request_latency_seconds_count") == logged
    assert server.metric("num_requests_in_flight") == 0


def test_a_resumable_stream_is_picked_up_through_either_process(clients: list[httpx.Client]) -> None:
    expected = stream(clients[0])
    for begins, name in [(0, "begun-0"), (1, "begun-1"), (0, "again-0"), (1, "again-1")]:
        headers = {**RESUMABLE, "x-request-id": name}
        body = {**STORY, "stream": True}
        with clients[begins].stream("POST", "/v1/completions", json=body, headers=headers) as response:
            assert response.headers["x-request-id"] == name
            for _ in zip(range(10), response.iter_lines(), strict=False):
                pass
        for client in clients:
            with client.stream("GET", f"/v1/streams/{name}") as response:
                assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
                assert text_of(response.iter_lines()) == expected
            assert client.get(f"/v1/streams/{name}", headers={"last-event-id": "301"}).status_code in (200, 204)
            assert client.get("/v1/streams/another").status_code == 404


def test_the_name_of_a_running_stream_is_taken_in_either_process(clients: list[httpx.Client]) -> None:
    # Long, so that it still runs. One of the two keeps it, the other passes on what it is asked.
    body = {**STORY, "stream": True, "max_tokens": 1900, "ignore_eos": True}
    headers = {**RESUMABLE, "x-request-id": "taken"}
    with clients[0].stream("POST", "/v1/completions", json=body, headers=headers) as response:
        next(response.iter_lines())
        for client in clients:
            again = client.post("/v1/completions", json=body, headers=headers)
            assert again.status_code == 400
            assert again.json()["error"]["message"] == "a stream with this x-request-id still runs"


def test_chats_that_one_stores_the_other_shows(clients: list[httpx.Client]) -> None:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "store": True}
    ids = [client.post("/v1/chat/completions", json=body).json()["id"] for client in [*clients, *clients]]
    for client in clients:
        assert [chat["id"] for chat in client.get("/v1/chat/completions").json()["data"]] == ids


def test_streams_of_both_survive_the_death_of_the_worker(server: ServerProcess, clients: list[httpx.Client]) -> None:
    expected = stream(clients[0])
    with ExitStack() as stack:
        body = {**STORY, "stream": True}
        lines = [
            stack.enter_context(client.stream("POST", "/v1/completions", json=body)).iter_lines() for client in clients
        ]
        begun = [[next(one) for _ in range(8)] for one in lines]
        os.kill(server.worker_pid, signal.SIGKILL)
        for first, rest in zip(begun, lines, strict=True):
            assert text_of([*first, *rest]) == expected
    server.wait_until(lambda: server.metric("worker_restarts_total") == 1)


def test_a_killed_process_is_replaced_and_takes_along_its_own_connections_alone(
    server: ServerProcess, clients: list[httpx.Client]
) -> None:
    expected, generated = stream(clients[0]), server.metric("generation_tokens_total")
    before = api_processes(server)
    # Enough for the kill to come long before their end.
    body = {**STORY, "max_tokens": 1000, "n": 16, "temperature": 1, "stream": True}
    with ExitStack() as stack:
        streams = [stack.enter_context(client.stream("POST", "/v1/completions", json=body)) for client in clients]
        before[0].kill()
        broken = 0
        for response in streams:
            try:
                text_of(response.iter_lines())
            except (httpx.RemoteProtocolError, httpx.ReadError):
                broken += 1
    assert broken == 1
    server.wait_until(lambda: "event=api_process_died" in server.log.read_text())
    server.wait_until(lambda: len(set(api_processes(server)) - set(before)) == 1)
    server.wait_until(server.is_idle)
    # In the meantime everything goes to the other one; a stream that the dead one keeps waits for its successor.
    for number in range(4):
        answer = httpx.post(
            server.url + "/v1/completions",
            json={**STORY, "stream": True},
            headers={**RESUMABLE, "x-request-id": f"after-{number}"},
            timeout=30,
        )
        assert text_of(answer.text.splitlines()) == expected
    assert server.metric("generation_tokens_total") > generated


@pytest.fixture
def temporary_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where servers that the test starts make theirs. Not in tmp_path, which may be too long for a socket's."""
    with TemporaryDirectory() as folder:
        monkeypatch.setenv("TMPDIR", folder)
        yield Path(folder)


def test_sigterm_lets_streams_of_both_finish_and_leaves_nothing_behind(tmp_path: Path, temporary_folder: Path) -> None:
    with running_server(tmp_path, "--api-processes", "2") as server, ExitStack() as stack:
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert len(list(temporary_folder.iterdir())) >= 2
        clients = [stack.enter_context(httpx.Client(base_url=server.url, timeout=60)) for _ in range(2)]
        body = {**STORY, "stream": True}
        streams = [stack.enter_context(client.stream("POST", "/v1/completions", json=body)) for client in clients]
        server.process.send_signal(signal.SIGTERM)
        server.wait_until(lambda: server.get("/ready").status_code == 503)
        assert server.post("/v1/completions", STORY).json()["error"]["code"] == "draining"
        texts = [text_of(response.iter_lines()) for response in streams]
        assert texts[0] == texts[1]
        assert server.process.wait(timeout=10) == 0
        assert not any(child.is_running() for child in children)
        assert list(temporary_folder.iterdir()) == []
        assert "Traceback" not in server.log.read_text()


@pytest.mark.parametrize(
    "signals", [[signal.SIGKILL], pytest.param([signal.SIGINT, signal.SIGINT], marks=pytest.mark.slow)]
)
def test_nothing_outlives_a_server_that_ends_at_once(tmp_path: Path, signals: list[signal.Signals]) -> None:
    with running_server(tmp_path, "--api-processes", "2") as server, ExitStack() as stack:
        client = stack.enter_context(httpx.Client(base_url=server.url, timeout=60))
        form = {"structured_outputs": {"regex": "[a-z]{3,9}"}}  # starts the processes that compile grammars
        assert client.post("/v1/completions", json={**STORY, **form}).status_code == 200
        children = psutil.Process(server.process.pid).children(recursive=True)
        assert len(children) > 3
        response = client.stream("POST", "/v1/completions", json={**STORY, "max_tokens": 2000, "stream": True})
        next(stack.enter_context(response).iter_lines())
        for number in signals:
            server.process.send_signal(number)
            time.sleep(0.1)
        assert server.process.wait(timeout=5) != 0
        _, alive = psutil.wait_procs(children, timeout=5)
        assert not alive
        assert "Traceback" not in server.log.read_text()


@pytest.mark.slow
def test_a_process_that_hangs_is_replaced(server: ServerProcess, clients: list[httpx.Client]) -> None:
    before = api_processes(server)
    before[0].send_signal(signal.SIGSTOP)
    server.wait_until(lambda: "event=api_process_hangs process=api-" in server.log.read_text(), timeout_s=40)
    server.wait_until(lambda: len(set(api_processes(server)) - set(before)) == 1)
    assert [httpx.get(server.url + "/ready", timeout=10).status_code for _ in range(4)] == [200] * 4


@pytest.mark.parametrize("pick", ["x-user", "authorization"])
def test_a_header_in_any_encoding_reaches_the_process_that_keeps_the_stream(
    clients: list[httpx.Client], pick: str
) -> None:
    headers = {**RESUMABLE, "x-request-id": f"encoded-{pick}", pick: "Bearer José, clé".encode()}
    for client in clients:
        with client.stream("POST", "/v1/completions", json={**STORY, "stream": True}, headers=headers) as response:
            assert response.status_code == 200
            assert len(response.headers.get_list("date")) == 1
            text_of(response.iter_lines())


def test_a_tokenizer_that_can_not_be_read_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    bundled = Path(__file__).parents[2] / "model" / "demo" / "bundled"
    model = tmp_path / "model"
    model.mkdir()
    for path in bundled.iterdir():
        (model / path.name).symlink_to(path)
    (model / "tokenizer.json").unlink()
    (model / "tokenizer.json").write_text("{}")
    with running_server(tmp_path, "--api-processes", "2", str(model), wait=False) as server:
        assert server.process.wait(timeout=30) == 2
        lines = [line for line in server.log.read_text().splitlines() if not line.startswith("nexttoken: ")]
        assert len(lines) == 1
        assert "tokenizer.json" in lines[0]
