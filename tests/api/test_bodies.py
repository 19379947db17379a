"""A body that is too long, compressed or no JSON object is refused, before it is read where that can be told."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from tests.api.serving import ask, refused, serve

COMPLETIONS = "/v1/completions"
JSON = {"content-type": "application/json"}


@pytest.mark.parametrize("text", ["\\ud800", "a\\ud800", "\\udc00b", "\\ud800\\ud800"])
def test_in11_half_a_surrogate_pair_is_refused_wherever_it_stands(text: str) -> None:
    for body in (
        f'{{"prompt": "{text}"}}',
        f'{{"prompt": "a", "user": "{text}"}}',
        f'{{"prompt": "a", "stop": "{text}", "stream": true}}',
        f'{{"prompt": "a", "{text}": 1}}',
    ):
        assert "Error" not in refused(ask(serve(), COMPLETIONS, body.encode(), **JSON))["message"]


@pytest.mark.parametrize("is_declared", [True, False])
def test_in15_a_body_over_the_limit_is_refused_before_it_is_parsed(is_declared: bool) -> None:
    served = serve(max_body_bytes=2048)
    body = b'{"prompt": "' + b"a" * 4096

    async def send() -> httpx.Response:
        async def chunks() -> AsyncIterator[bytes]:
            for byte in body:
                yield bytes([byte])

        async with served.client() as client:
            return await client.post(COMPLETIONS, content=body if is_declared else chunks(), headers=JSON)

    refused(asyncio.run(send()), 413)


def test_in15_a_declared_length_of_10_gb_is_refused_unread() -> None:
    refused(ask(serve(), COMPLETIONS, b"{}", **JSON, **{"content-length": str(10**10)}), 413)


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd", "gzip, gzip"])
def test_in16_compressed_bodies_are_refused_unread(encoding: str) -> None:
    refused(ask(serve(), COMPLETIONS, b"\x1f\x8b", **JSON, **{"content-encoding": encoding}), 415)


def test_in17_limits_hold_for_the_duplicate_that_is_used() -> None:
    refused(ask(serve(), COMPLETIONS, b'{"prompt": "a", "n": 1, "n": 1000000}', **JSON))
    refused(ask(serve(), COMPLETIONS, b'{"prompt": "a", "n": ' + b"1" * 10**7 + b"}", **JSON))


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("text/plain", 415),
        ("", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/json; charset=utf-16", 415),
        ("application/json; charset=UTF-8", 200),
        ("APPLICATION/JSON", 200),
    ],
)
def test_in24_only_json_in_utf8_is_read(content_type: str, status: int) -> None:
    answer = ask(serve(), COMPLETIONS, b'{"prompt": "a"}', **{"content-type": content_type})
    assert answer.status_code == 200 if status == 200 else refused(answer, status)


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"null", b"[]", b"1", b"\0\0", b"\xff\xfe", b"\xef\xbb\xbf{}", '{"a":1}'.encode("utf-16")),
        *(b'{"prompt": "a",}', b'{"prompt": "\xff"}', b'{"prompt": "a"} x', b"[" * 100_000),
    ],
)
def test_in24_a_body_that_is_no_json_object_is_a_400(body: bytes) -> None:
    refused(ask(serve(), COMPLETIONS, body, **JSON))


def test_in24_the_other_method_and_an_unknown_path_have_our_errors() -> None:
    assert refused(ask(serve(), COMPLETIONS, None), 405)["code"] == "method_not_allowed"
    assert refused(ask(serve(), "/v1/models", {}), 405)
    assert refused(ask(serve(), "/v1/nothing", {}), 404)
