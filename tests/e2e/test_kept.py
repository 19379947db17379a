"""What the server keeps for a client that comes back: streams for a minute, stored chats for good."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from tests.e2e.server_process import ServerProcess, events, running_server

STORY = {"prompt": "Once upon a time", "max_tokens": 300, "temperature": 0, "ignore_eos": True}


def begin(server: ServerProcess, num_events: int) -> tuple[str, str]:
    """Leave a resumable stream after some events. Gives its name and the text so far."""
    text = ""
    body = STORY | {"stream": True}
    with httpx.stream("POST", server.url + "/v1/completions", json=body, headers={"x-resumable": "1"}) as answer:
        for number, event in enumerate(events(answer.iter_lines()), 1):
            text += event["choices"][0]["text"]
            if number == num_events:
                break
    return answer.headers["x-request-id"], text


def go_on(server: ServerProcess, name: str, last_id: int) -> Iterator[str]:
    headers = {"last-event-id": str(last_id)}
    with httpx.stream("GET", f"{server.url}/v1/streams/{name}", headers=headers, timeout=60) as answer:
        assert answer.status_code == 200
        for event in events(answer.iter_lines()):
            assert "error" not in event, event
            yield "".join(choice["text"] for choice in event["choices"])


def test_a_stream_goes_on_without_its_client_although_the_worker_dies(tmp_path: Path) -> None:
    with running_server(tmp_path, "--dtype", "float32") as server:
        whole = server.complete(**STORY)
        name, text = begin(server, 5)
        os.kill(server.worker_pid, signal.SIGKILL)
        server.wait_until(lambda: server.metric("worker_restarts_total") == 1)
        assert text + "".join(go_on(server, name, 5)) == whole
        server.wait_until(server.is_idle)


def test_a_server_that_drains_still_gives_the_rest_of_a_stream(tmp_path: Path) -> None:
    body = {"prompt": "A cat", "max_tokens": 1900, "temperature": 0, "ignore_eos": True, "stream": True}
    with running_server(tmp_path) as server:
        name, _ = begin(server, 5)
        with httpx.stream("POST", server.url + "/v1/completions", json=body, timeout=60) as other:
            lines = events(other.iter_lines())
            next(lines)
            server.process.send_signal(signal.SIGTERM)
            server.wait_until(lambda: server.get("/ready").status_code == 503)
            rest = "".join(go_on(server, name, 5))
            assert rest
            for _ in lines:
                pass
        assert server.process.wait(timeout=30) == 0


def test_a_stream_that_nobody_comes_back_for_is_aborted(tmp_path: Path) -> None:
    with running_server(tmp_path, "--stream-resume-s", "0.2") as server:
        name, _ = begin(server, 2)
        server.wait_until(server.is_idle)
        server.wait_until(lambda: server.get(f"/v1/streams/{name}").status_code == 404)


def test_stored_chats_are_there_after_a_restart(tmp_path: Path) -> None:
    arguments = ("--store-path", str(tmp_path / "chats.sqlite"))
    with running_server(tmp_path, *arguments) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        made = client.chat.completions.create(
            model="nexttoken-tiny", messages=[{"role": "user", "content": "Hello!"}], store=True, metadata={"a": "b"}
        )
        server.process.kill()
        server.process.wait()
    with running_server(tmp_path, *arguments) as server:
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
        (found,) = client.chat.completions.list(metadata={"a": "b"})
        assert found == made.model_copy(update={"metadata": {"a": "b"}})
        (message,) = client.chat.completions.messages.list(made.id)
        assert message.content == "Hello!"


def test_a_store_that_can_not_be_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("This is no database, and long enough that SQLite looks at it. " * 20)
    for path in (tmp_path / "text", tmp_path / "missing" / "chats.sqlite"):
        with running_server(tmp_path, "--store-path", str(path), wait=False) as server:
            assert server.process.wait(timeout=60) == 1
            (line,) = [line for line in server.log.read_text().splitlines() if "--store-path" in line]
            assert str(path) in line
            assert "Traceback" not in server.log.read_text()


def test_the_receipt_of_a_real_answer_adds_up(server: ServerProcess) -> None:
    answer = server.post("/v1/completions", STORY | {"max_tokens": 50})
    parts = dict(part.split(";dur=") for part in answer.headers["server-timing"].split(", ") if ";dur=" in part)
    total_ms = sum(map(float, parts.values()))
    assert total_ms == pytest.approx(float(answer.headers["openai-processing-ms"]), rel=0.5)
    assert float(parts["decode"]) > float(parts["prefill"]) > 0
    cost = server.post("/tokenize", {"prompt": "Once upon a time " * 20}).json()
    assert cost["fits"]
    assert cost["cached_tokens"] == 0
    assert cost["expected_ttft_s"] > 0
