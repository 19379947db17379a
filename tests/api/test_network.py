"""Keys, logs and metrics: what is closed, and what is told to whom."""

import asyncio
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from server.api import body
from tests.api.serving import TOKENIZER, Served, ask, listening, refused, serve, strict_json

OPEN = {"/health", "/ready", "/metrics"}
PROMPT = {"prompt": "PROMPT-CANARY"}


def routes(served: Served) -> list[tuple[str, str]]:
    """Method and path of everything the app answers, found by walking its routers."""
    found: list[tuple[str, str]] = []

    def walk(routes: Any) -> None:
        for route in routes:
            if hasattr(route, "methods") and hasattr(route, "path"):
                found.extend((method, route.path) for method in route.methods)
            elif hasattr(route, "routes"):
                walk(route.routes)
            elif hasattr(route, "original_router"):
                walk(route.original_router.routes)
            else:
                raise AssertionError(f"a route of an unknown kind: {route!r}")

    walk(served.app.routes)
    return found


def request(served: Served, method: str, path: str, **headers: str) -> httpx.Response:
    async def send() -> httpx.Response:
        async with served.client(**headers) as client:
            return await client.request(method, path.replace("{model_id:path}", "tiny"), json=PROMPT)

    return asyncio.run(send())


@pytest.mark.parametrize("metrics_open", [True, False])
def test_nw02_every_route_needs_the_key_but_a_short_list(metrics_open: bool) -> None:
    served = serve(api_key=("k1", "k2"), metrics_open=metrics_open)
    found = routes(served)
    assert len(found) >= 11
    closed = OPEN if metrics_open else OPEN - {"/metrics"}
    for method, path in found:
        if path in closed:
            assert request(served, method, path).status_code == 200
            continue
        answer = request(served, method, path)
        assert refused(answer, 401)["code"] == "invalid_api_key"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert request(served, method, path, authorization="Bearer k2").status_code != 401


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer s",
        "Bearer SECRET",
        "Basic secret",
        "secret",
        "Bearer " + "x" * 10_000,
        "Bearer ÿ",
    ],
)
def test_nw03_no_wrong_key_opens_or_breaks_anything(header: str) -> None:
    served = serve(api_key=("secret",))

    async def send() -> httpx.Response:
        async with served.client() as client:
            return await client.get("/v1/models", headers=[(b"authorization", header.encode())])

    refused(asyncio.run(send()), 401)


def test_nw03_a_key_beyond_ascii_opens() -> None:
    served = serve(api_key=("schlüssel",))

    async def send() -> httpx.Response:
        async with served.client() as client:
            return await client.get("/v1/models", headers=[(b"authorization", "bearer schlüssel".encode())])

    assert asyncio.run(send()).status_code == 200


@pytest.mark.parametrize("host", ["x/health?", "a?b", "a#b", "x/health#"])
def test_nw01_no_host_header_goes_round_the_key(host: str) -> None:
    async def run() -> None:
        async with listening(serve(api_key=("k",)).app) as url:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
            writer.write(f"GET /v1/models HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
            status = (await reader.read()).split()[1]
            writer.close()
            assert status in (b"401", b"400")

    asyncio.run(run())


def test_nw07_an_unforeseen_exception_is_one_sentence_and_an_id(caplog: pytest.LogCaptureFixture) -> None:
    for layer in ("engine", "template"):
        served = serve()
        chat: dict[str, Any] = {"messages": [{"role": "user", "content": "a"}]}

        def fail(*_: Any, **__: Any) -> None:
            raise RuntimeError("secret at 0x7f00 in /root")

        if layer == "engine":
            served.engine.script = fail  # type: ignore[assignment]
        else:
            served.engine.generate = fail  # type: ignore[assignment, method-assign]
        for stream in (False, True):
            caplog.clear()
            answer = ask(served, "/v1/chat/completions", chat | {"stream": stream})
            error = refused(answer, 500)
            assert not any(word in answer.text for word in ("secret", "0x", "root", "RuntimeError"))
            request_id = answer.headers["x-request-id"]
            assert request_id in error["message"]
            assert request_id in caplog.text
            assert "secret" in caplog.text


def test_nw11_neither_keys_nor_prompts_are_logged_or_echoed(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    served = serve("ok", api_key=("KEY-CANARY",))
    seen = []
    for key in ("KEY-CANARY", "WRONG-CANARY"):
        for path, sent in (
            ("/v1/completions", PROMPT),
            ("/v1/completions?api_key=KEY-CANARY", PROMPT | {"n": "PROMPT-CANARY", "stop": "PROMPT-CANARY"}),
            ("/v1/completions", {"prompt": ["PROMPT-CANARY", 1]}),
            ("/v1/chat/completions", {"messages": [{"role": "PROMPT-CANARY"}], "user": "PROMPT-CANARY"}),
            ("/v1/completions", PROMPT | {"user": "PROMPT-CANARY", "logit_bias": {"PROMPT-CANARY": 1}}),
        ):
            seen.append(ask(served, path, sent, authorization=f"Bearer {key}").text)
    seen.append(ask(served, "/metrics", None, authorization="Bearer KEY-CANARY").text)
    ours = [record.getMessage() for record in caplog.records if record.name.startswith("server")]
    assert "CANARY" not in "".join(seen + ours)
    assert len(ours) == 10


def test_nw12_a_client_can_not_write_log_lines_of_its_own(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    ask(serve(), "/v1/models/x%0Alevel=error%20fake%1B[31m" + "y" * 5000, None)
    ask(serve(), "/v1/completions", {"prompt": "a", "x\ny": 1})
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("server")]
    assert len(lines) == 2
    assert all("\n" not in line and "\x1b" not in line and len(line) < 600 for line in lines)


@pytest.mark.parametrize("given", ["", "a b", "x" * 65, "ü", "a=b"])
def test_nw12_a_request_id_of_other_letters_is_replaced(given: str) -> None:
    async def send(request_id: str) -> str:
        async with serve().client() as client:
            answer = await client.get("/health", headers=[(b"x-request-id", request_id.encode())])
            return answer.headers["x-request-id"]

    assert asyncio.run(send(given)) != given
    assert asyncio.run(send("Mine_1-2")) == "Mine_1-2"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/v1/chat/completions", "GET, POST"),
        ("/v1/chat/completions/x", "DELETE, GET, POST"),
        ("/v1/completions", "POST"),
        ("/v1/models/tiny", "GET"),
    ],
)
def test_a_method_that_is_not_there_is_told_all_that_are(path: str, allowed: str) -> None:
    answer = request(serve(), "PUT", path)
    assert refused(answer, 405)["message"] == f"this path takes {allowed}"
    assert answer.headers.get_list("allow") == [allowed]


def test_the_log_line_of_a_refusal_says_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    served = serve()
    ask(served, "/v1/completions", PROMPT | {"n": 0})
    ask(served, "/v1/completions", PROMPT | {"model": "MODEL-CANARY"})
    ask(served, "/nowhere", None)
    wrong_value, wrong_model, wrong_path = (record.getMessage() for record in caplog.records if "event=" in record.msg)
    assert ' param="n" error="n: Input should be greater than or equal to 1"' in wrong_value
    assert ' code="model_not_found" param="model" error="no such model is served; ' in wrong_model
    assert ' code="not_found" error="nothing is at this path; ' in wrong_path
    assert "CANARY" not in caplog.text


def test_metrics_name_endpoints_as_the_documentation_does() -> None:
    served = serve()
    for path in ("/v1/models/alias/tiny", "/v1/chat/completions/x", "/nowhere"):
        ask(served, path, None)
    text = ask(served, "/metrics", None).text
    assert set(re.findall(r'http_requests_total\{endpoint="([^"]+)"', text)) == {
        "/v1/models/{model_id}",
        "/v1/chat/completions/{chat_id}",
        "unmatched",
    }


def test_nw13_clients_add_no_series_to_the_metrics() -> None:
    served = serve("ok")

    def series() -> dict[tuple[Any, ...], float]:
        text = ask(served, "/metrics", None).text
        return {
            (sample.name, *sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def use(number: int) -> None:
        ask(served, "/v1/completions", PROMPT | {"user": f"u{number}", "priority": number, "model": "tiny"})
        ask(served, "/v1/completions", PROMPT | {"model": f"m{number}"})
        ask(served, f"/path/{number}", None)
        ask(served, f"/v1/models/{number}", None)

    use(0)
    series()  # which adds its own
    before = series()
    for number in range(1, 10):
        use(number)
    after = series()
    created = {key for key in after if "_created" in key[0]}
    assert set(after) - created == set(before) - created
    model = ("model_name", "tiny")
    assert after[("nexttoken:generation_tokens_total", model)] == 10 * 3
    assert after[("nexttoken:inter_token_latency_seconds_count", model)] == 10 * 2
    assert after[("nexttoken:inter_token_latency_seconds_bucket", ("le", "+Inf"), model)] == 10 * 2
    assert 0 < after[("nexttoken:inter_token_latency_seconds_sum", model)] < 60
    assert after[("nexttoken:request_success_total", ("finished_reason", "stop"), model)] == 10
    assert after[("nexttoken:time_to_first_token_seconds_count", model)] == 10
    assert after[("nexttoken:num_requests_running", model)] == 0
    requests = ("nexttoken:http_requests_total", ("endpoint", "/v1/completions"), ("status", "2xx"))
    assert after[requests] == 10


def test_nw15_a_body_that_does_not_arrive_is_a_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "MAX_READ_S", 0.05)

    async def run() -> bytes:
        async with listening(serve().app) as url:
            reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rsplit(":", 1)[1]))
            head = "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n"
            writer.write(f"{head}Connection: close\r\n\r\n{{".encode())
            answer = await reader.read()
            writer.close()
            return answer

    status, _, content = asyncio.run(run()).partition(b"\r\n")
    assert status.split()[1] == b"408"
    assert b'"code":"body_timeout"' in content


def test_nw14_no_origin_is_allowed_unless_it_is_named() -> None:
    headers = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    for served, allowed in ((serve(), None), (serve(allowed_origins=("https://good.example",)), None)):
        for method in ("GET", "OPTIONS"):
            answer = request(served, method, "/v1/models", **headers)
            assert answer.headers.get("access-control-allow-origin") == allowed
    good = request(serve(allowed_origins=("https://good.example",)), "GET", "/v1/models", origin="https://good.example")
    assert good.headers["access-control-allow-origin"] == "https://good.example"


def test_is05_keys_do_not_share_cached_prompts() -> None:
    served = serve(api_key=("k1", "k2"))

    def cached(key: str, **body: Any) -> Any:
        answer = ask(served, "/v1/completions", {"prompt": "abcdef"} | body, authorization=f"Bearer {key}")
        return strict_json(answer.content)["usage"]["prompt_tokens_details"]["cached_tokens"]

    assert [cached("k1"), cached("k1"), cached("k2"), cached("k2")] == [0, 6, 0, 6]
    assert cached("k1", cache_salt="s") == cached("k2", cache_salt="s") == 0


def test_op04_health_is_about_life_and_ready_about_requests() -> None:
    expected = {
        "starting": (200, 503),
        "ready": (200, 200),
        "draining": (200, 503),
        "restarting": (503, 503),
        "dead": (503, 503),
    }
    for phase, statuses in expected.items():
        served = serve()
        served.engine.phase = phase  # type: ignore[assignment]
        assert tuple(ask(served, path, None).status_code for path in ("/health", "/ready")) == statuses
    served.engine.phase = "starting"
    answer = ask(served, "/ready", None).json()
    assert answer == {"status": "starting", "detail": "loading weights", "fraction": 0.4}
    assert ask(served, "/v1/models", None).json()["data"][0] == {
        "id": "tiny",
        "object": "model",
        "created": 1,
        "owned_by": "nexttoken",
    }


def test_a_head_request_of_a_probe_is_answered_like_its_get_without_a_body() -> None:
    async def run() -> None:
        served = serve()
        async with listening(served.app) as url, httpx.AsyncClient(base_url=url) as client:
            for phase in ("ready", "starting", "dead"):
                served.engine.phase = phase  # type: ignore[assignment]
                for path in ("/health", "/ready"):
                    head, get = await client.head(path), await client.get(path)
                    assert (head.status_code, head.content) == (get.status_code, b"")
                    assert head.headers.get("retry-after") == get.headers.get("retry-after")

    asyncio.run(run())


def test_the_fingerprint_of_an_answer_changes_with_the_servers_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def fingerprint() -> Any:
        return ask(serve(), "/v1/completions", PROMPT).json()["system_fingerprint"]

    first = fingerprint()
    assert first == fingerprint()
    monkeypatch.setattr("server.served.VERSION", "another")
    assert fingerprint() != first


def test_detokenize_gives_the_text_back() -> None:
    tokens = ask(serve(), "/tokenize", {"prompt": "ü x", "return_token_strs": True}).json()
    assert tokens["count"] == len(tokens["tokens"]) == len(tokens["token_strs"]) == 5
    assert tokens["max_model_len"] == 256
    assert ask(serve(), "/detokenize", {"tokens": tokens["tokens"][1:]}).json() == {"prompt": "ü x"}
    assert TOKENIZER.encode("ü x") == tokens["tokens"]


def test_the_document_describes_the_bodies_that_are_read() -> None:
    document = ask(serve(), "/openapi.json", None).json()
    operation = document["paths"]["/v1/completions"]["post"]
    name = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
    assert {"prompt", "best_of", "top_k"} <= set(document["components"]["schemas"][name]["properties"])
    assert not any("422" in op["responses"] for path in document["paths"].values() for op in path.values())
    assert ask(serve(), "/version", None).json() == {"version": "0.0.0"}


def test_the_api_process_never_imports_torch() -> None:
    code = "import sys, server.app, server.served; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
