"""A load on a server with known delays: what is seen of it is what it did."""

import asyncio
import time
from pathlib import Path

import pytest

from server.bench.answer import Seen
from server.bench.clients import LoadFailed
from server.bench.http import Connections, Target
from server.bench.load import LoadPlan, run_sessions
from server.bench.serve import served_model
from server.bench.summary import summarize
from server.bench.workload import Common, Session, Shape, Turn, drawn, read
from tests.bench.fake_server import FIRST_S, GAP_S, NUM_CHUNKS, Behaviour, Exchange, FakeServer, in_time

MS = 1e3


def load(
    server: FakeServer, sessions: list[Session], *, concurrency: int = 1, arrivals: list[float] | None = None
) -> list[Seen]:
    """What a client process sees when it sends these."""

    async def run() -> list[Seen]:
        async with server:
            plan = LoadPlan(
                base_url=server.url,
                api_key="key",
                common=Common("m", ignores_eos=True, temperature=0.5),
                warm_up=[],
                sessions=sessions,
                concurrency=concurrency,
                arrivals=arrivals,
            )
            connections = Connections(Target.parse(server.url, "key"))
            seen = await run_sessions(plan, connections, time.monotonic())
            connections.close()
            return seen

    return asyncio.run(run())


def prompts(count: int) -> list[Session]:
    return [Session([Turn(10, prompt=[number])]) for number in range(count)]


def test_text_is_seen_once_it_was_sent_and_no_sooner() -> None:
    server = FakeServer()
    results = load(server, prompts(4))
    lags = [
        at - sent
        for seen, exchange in zip(results, server.exchanges, strict=True)
        for at, sent in zip(seen.text_times, exchange.sent_at, strict=True)
    ]
    assert 0 <= min(lags) < GAP_S


def test_delays_come_out_as_ttft_itl_and_tpot() -> None:
    summary = summarize(load(FakeServer(), prompts(4)), {"ttft": FIRST_S * MS / 2})
    # Disturbed, they may be longer; the server's own timer may be a little early.
    assert summary.ttft_ms[0] > FIRST_S * MS * 0.9
    assert summary.itl_ms[0] > GAP_S * MS * 0.9
    # Two tokens a chunk.
    assert summary.tpot_ms[0] > GAP_S * MS * (NUM_CHUNKS - 1) / (2 * NUM_CHUNKS - 1) * 0.9
    assert summary.tpot_ms[0] < summary.e2e_ms[0] / NUM_CHUNKS
    assert summary.e2e_ms[0] > (FIRST_S + (NUM_CHUNKS - 1) * GAP_S) * MS * 0.9
    assert summary.goodput_share == 0


def test_tokens_are_those_that_the_server_counts() -> None:
    (seen,) = load(FakeServer(), prompts(1))
    assert (seen.num_prompt, seen.num_output, seen.num_cached, seen.error) == (7, 2 * NUM_CHUNKS, 4, "")


def test_chunks_stand_in_where_the_server_counts_nothing() -> None:
    async def uncounted(exchange: Exchange) -> None:
        exchange.start()
        exchange.text("a")
        exchange.text("")
        exchange.text("b")
        exchange.end()

    (seen,) = load(FakeServer(uncounted), prompts(1))
    assert (seen.num_output, seen.is_counted) == (2, False)


def test_a_closed_loop_has_so_many_requests_at_once_and_uses_a_connection_for_each() -> None:
    at_once: list[int] = []
    running = 0

    async def counted(exchange: Exchange) -> None:
        nonlocal running
        running += 1
        at_once.append(running)
        await in_time(exchange)
        running -= 1

    server = FakeServer(counted)
    assert len(load(server, prompts(9), concurrency=3)) == 9
    assert max(at_once) == 3
    assert server.num_connections == 3


def test_in_an_open_loop_the_wait_for_a_slow_server_counts() -> None:
    one_at_a_time = asyncio.Lock()

    async def slow(exchange: Exchange) -> None:
        async with one_at_a_time:
            await in_time(exchange)

    answer_s = FIRST_S + (NUM_CHUNKS - 1) * GAP_S
    results = load(FakeServer(slow), prompts(4), arrivals=[0, 0.001, 0.002, 0.003])
    ttfts = sorted(seen.text_times[0] - seen.due_at for seen in results)
    assert all(ttft > (number * answer_s + FIRST_S) * 0.9 - 0.003 for number, ttft in enumerate(ttfts))


def test_a_chat_goes_on_from_its_answers() -> None:
    server = FakeServer()
    shape = Shape(input_len=3, output_len=8, num_turns=3, is_chat=True)
    assert len(load(server, drawn(shape, 1, "seed"))) == 3
    last = server.exchanges[-1]
    assert last.path == "/v1/chat/completions"
    assert [message["role"] for message in last.body["messages"]] == ["user", "assistant"] * 2 + ["user"]
    assert last.body["messages"][1]["content"] == "w0 w1 w2 w3 w4 "


def test_requests_say_what_was_chosen() -> None:
    server = FakeServer()
    load(server, [Session([Turn(10, prompt=[1, 2])])])
    (exchange,) = server.exchanges
    assert exchange.body == {
        "model": "m",
        "prompt": [1, 2],
        "max_tokens": 10,
        "temperature": 0.5,
        "stream": True,
        "stream_options": {"include_usage": True},
        "ignore_eos": True,
    }
    assert "authorization: Bearer key\r\n" in exchange.headers


async def refuse(exchange: Exchange) -> None:
    body = b'{"error": "no such thing"}'
    exchange.writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body))


async def break_off(exchange: Exchange) -> None:
    exchange.start()
    exchange.text("a")
    exchange.writer.close()


async def end_early(exchange: Exchange) -> None:
    exchange.start()
    exchange.text("a")
    exchange.writer.write(b"0\r\n\r\n")


async def fail_late(exchange: Exchange) -> None:
    exchange.start()
    exchange.text("a")
    exchange.event({"error": {"message": "out of luck"}})
    exchange.end()


async def babble(exchange: Exchange) -> None:
    exchange.writer.write(b"220 mail.example.com ESMTP\r\n\r\n")


async def hang_up(exchange: Exchange) -> None:
    exchange.writer.close()


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (refuse, 'status 400: {"error": "no such thing"}'),
        (break_off, "broke in the middle"),
        (end_early, "without [DONE]"),
        (fail_late, "out of luck"),
        (babble, "is no HTTP"),
        (hang_up, "closed the connection unanswered"),
    ],
)
def test_what_goes_wrong_is_an_error_of_its_request_alone(behaviour: Behaviour, message: str) -> None:
    turns = iter([behaviour, in_time])
    bad, good = load(FakeServer(lambda exchange: next(turns)(exchange)), prompts(2))
    assert message in bad.error
    assert good.error == ""


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ("401 Unauthorized", "--api-key or the variable OPENAI_API_KEY"),
        ("404 Not Found", "there is no /v1/models below this --base-url"),
        ("200 OK", "name one with --model"),
    ],
)
def test_a_server_that_lists_no_model_is_told_with_its_remedy(status: str, message: str) -> None:
    async def answer(exchange: Exchange) -> None:
        exchange.start(status)
        exchange.event({"error": {"message": "no"}})
        exchange.end()

    async def ask() -> None:
        async with FakeServer(answer) as server:
            await served_model(Target.parse(server.url))

    with pytest.raises(LoadFailed, match=message):
        asyncio.run(ask())


def test_a_connection_that_timed_out_meanwhile_is_replaced() -> None:
    async def once(exchange: Exchange) -> None:
        await in_time(exchange)
        exchange.writer.close()

    server = FakeServer(once)
    assert [seen.error for seen in load(server, prompts(3))] == ["", "", ""]
    assert server.num_connections == 3


def test_an_answer_without_length_ends_with_its_connection() -> None:
    async def old(exchange: Exchange) -> None:
        exchange.writer.write(b'HTTP/1.0 200 OK\r\n\r\ndata: {"choices": [{"text": "a"}]}\r\n\r\ndata: [DONE]\n\n')
        exchange.writer.close()

    (seen,) = load(FakeServer(old), prompts(1))
    assert (seen.error, seen.num_output) == ("", 1)


def test_a_file_has_prompts_and_chats(tmp_path: Path) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_text('{"prompt": "a b"}\n\n{"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}\n')
    first, second, third = read(file, 3, output_len=9)
    assert first == third == Session([Turn(9, prompt="a b")])
    assert second == Session([Turn(3, messages=[{"role": "user", "content": "hi"}])])


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"prompt": 1}', '{"prompt": "a", "messages": []}'])
def test_a_line_that_is_no_request_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "requests.jsonl"
    file.write_text('{"prompt": "a"}\n' + line)
    with pytest.raises(ValueError, match=r"requests\.jsonl line 2: "):
        read(file, 1, output_len=9)
