"""Bodies on the wire: our connection writes what h11's does, and refuses a body of two lengths."""

import asyncio

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.http_protocol import ChunkingConnection
from tests.api.serving import listening, serve

REQUESTS = {
    "chunked": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "until the end of the connection": b"GET / HTTP/1.0\r\n\r\n",
    "no body": b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n",
}


def written(connection: h11.Connection, request: bytes, exchanges: list[list[bytes]], *, with_length: bool) -> bytes:
    """All that the connection writes for one answer after another, each with a body of such pieces."""
    output = b""
    for pieces in exchanges:
        connection.receive_data(request)
        assert isinstance(connection.next_event(), h11.Request)
        assert isinstance(connection.next_event(), h11.EndOfMessage)
        length = [("content-length", str(sum(map(len, pieces))))] if with_length else []
        body = [] if request.startswith(b"HEAD") else [h11.Data(data=piece) for piece in pieces]
        for event in (h11.Response(status_code=200, headers=length), *body, h11.EndOfMessage()):
            output += connection.send(event) or b""
        if connection.our_state is not h11.DONE:
            break
        connection.start_next_cycle()
    return output


@pytest.mark.parametrize("with_length", [False, True])
@pytest.mark.parametrize("request_bytes", REQUESTS.values(), ids=REQUESTS)
@given(exchanges=st.lists(st.lists(st.binary(max_size=300), max_size=4), min_size=1, max_size=3))
def test_every_body_is_framed_as_h11_frames_it(
    request_bytes: bytes, exchanges: list[list[bytes]], with_length: bool
) -> None:
    ours, theirs = (
        written(kind(h11.SERVER), request_bytes, exchanges, with_length=with_length)
        for kind in (ChunkingConnection, h11.Connection)
    )
    assert ours == theirs


def test_the_pieces_of_a_chunked_body_do_not_go_through_the_state_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[type[h11.Event]] = []
    plain = h11.Connection.send_with_data_passthrough

    def noted(connection: h11.Connection, event: h11.Event) -> list[bytes] | None:
        events.append(type(event))
        return plain(connection, event)

    monkeypatch.setattr(h11.Connection, "send_with_data_passthrough", noted)
    written(ChunkingConnection(h11.SERVER), REQUESTS["chunked"], [[b"a", b"b"]] * 2, with_length=False)
    assert events == [h11.Response, h11.EndOfMessage] * 2


def test_a_body_of_two_lengths_is_refused_and_what_follows_is_no_request() -> None:
    smuggled = b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    request = (
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    )

    async def answer() -> bytes:
        async with listening(serve().app) as url:
            reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
            writer.write(request % (len(smuggled) + 5) + smuggled)
            whole = await reader.read()  # to the end of the connection
            writer.close()
            return whole

    whole = asyncio.run(answer())
    assert whole.startswith(b"HTTP/1.1 400 ")
    assert whole.count(b"HTTP/1.1") == 1


def test_the_end_of_the_server_waits_for_no_request_that_is_still_to_come() -> None:
    async def answer() -> bytes:
        async with listening(serve().app) as url:
            reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
            writer.write(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nExpect: 100-continue\r\n")
            writer.write(b"Content-Type: application/json\r\n\r\n")
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(b"{")
        rest = await reader.read()
        writer.close()
        return rest

    assert asyncio.run(answer()) == b""
