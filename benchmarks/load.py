"""A bounded load on a server: random prompts, several at a time, streamed."""

import asyncio
import json
import random
import statistics
import time
from dataclasses import dataclass

import httpx


@dataclass(frozen=True)
class Scenario:
    """What is sent."""

    name: str
    num_streams: int
    num_requests: int
    input_len: int
    output_len: int


@dataclass(frozen=True)
class LoadResult:
    """What came of it. Rates are tokens a second."""

    output_rate: float
    """All streams together, prefill included."""
    decode_rate: float
    """One stream between its first and its last token: median over the requests."""
    first_token_s: float
    """Median over the requests."""


def run_load(url: str, scenario: Scenario, seed: int = 0) -> LoadResult:
    """Send the scenario and wait for all of it. Raises if any request fails."""
    return asyncio.run(_run(url, scenario, random.Random(seed)))


async def _run(url: str, scenario: Scenario, rng: random.Random) -> LoadResult:
    prompts = [[rng.randrange(256, 10000) for _ in range(scenario.input_len)] for _ in range(scenario.num_requests)]
    places = asyncio.Semaphore(scenario.num_streams)
    async with httpx.AsyncClient(base_url=url, timeout=600) as http:

        async def one(prompt: list[int]) -> tuple[float, float]:
            async with places:
                return await _stream(http, prompt, scenario.output_len)

        started = time.perf_counter()
        times = await asyncio.gather(*map(one, prompts))
        wall = time.perf_counter() - started
    return LoadResult(
        output_rate=scenario.num_requests * scenario.output_len / wall,
        decode_rate=statistics.median((scenario.output_len - 1) / rest if rest else 0.0 for _, rest in times),
        first_token_s=statistics.median(first for first, _ in times),
    )


async def _stream(http: httpx.AsyncClient, prompt: list[int], output_len: int) -> tuple[float, float]:
    """Seconds to the first token, and from the first to the last."""
    body = {
        "prompt": prompt,
        "max_tokens": output_len,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
    }
    sent = time.perf_counter()
    first = last = None
    num_chunks = 0
    async with http.stream("POST", "/v1/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            for choice in json.loads(line[6:])["choices"]:
                if choice["text"]:
                    last = time.perf_counter()
                    first = first or last
                    num_chunks += 1
    assert num_chunks > 1, "a stream of one chunk tells nothing about decoding"
    assert first is not None
    assert last is not None
    return first - sent, last - first
