"""Fields beyond the usual ones, on a real model."""

import re
from itertools import pairwise

from tests.e2e.server_process import ServerProcess

PROMPT = "Once upon a time, there was a"


def test_prompt_logprobs_are_those_of_an_echo(server: ServerProcess) -> None:
    body = {"prompt": PROMPT, "max_tokens": 0, "echo": True, "logprobs": 2, "prompt_logprobs": 3}
    [choice] = server.post("/v1/completions", body).json()["choices"]
    entries = [next(iter(entry.values())) for entry in choice["prompt_logprobs"][1:]]
    assert [entry["logprob"] for entry in entries] == choice["logprobs"]["token_logprobs"][1:]
    assert [entry["decoded_token"] for entry in entries] == choice["logprobs"]["tokens"][1:]
    for entry in choice["prompt_logprobs"][1:]:
        ranked = sorted((one["rank"], one["logprob"]) for one in entry.values() if one["rank"] is not None)
        assert [rank for rank, _ in ranked] == [1, 2, 3]
        assert all(first >= second for (_, first), (_, second) in pairwise(ranked))


def test_nothing_but_the_allowed_tokens_is_drawn(server: ServerProcess) -> None:
    allowed = server.post("/tokenize", {"prompt": "abc", "add_special_tokens": False}).json()["tokens"]
    body = {"prompt": PROMPT, "max_tokens": 20, "allowed_token_ids": allowed, "return_token_ids": True, "n": 3}
    beside = {"prompt": PROMPT, "max_tokens": 20, "temperature": 0}
    free = server.complete(**beside)
    choices = server.post("/v1/completions", body | {"temperature": 1.5}).json()["choices"]
    assert all(set(choice["token_ids"]) <= set(allowed) and len(choice["token_ids"]) == 20 for choice in choices)
    assert server.complete(**beside) == free


def test_a_bad_word_is_not_completed_and_all_before_it_stays(server: ServerProcess) -> None:
    free = server.complete(PROMPT, max_tokens=30)
    word = max(re.findall("[a-z]+", free), key=len)
    kept = server.complete(PROMPT, max_tokens=30, bad_words=[word])
    assert f" {word}" not in kept
    assert kept.startswith(free.partition(f" {word}")[0])


def test_token_ids_are_those_of_the_text(server: ServerProcess) -> None:
    body = {"prompt": PROMPT, "max_tokens": 12, "temperature": 0, "return_token_ids": True}
    [choice] = server.post("/v1/completions", body).json()["choices"]
    both = choice["prompt_token_ids"] + choice["token_ids"]
    assert server.post("/detokenize", {"tokens": both}).json()["prompt"].endswith(PROMPT + choice["text"])


def test_a_deadline_ends_a_long_text(server: ServerProcess) -> None:
    body = {"prompt": PROMPT, "max_tokens": 400, "ignore_eos": True, "deadline_ms": 20, "n": 8}
    answer = server.post("/v1/completions", body).json()
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"length"}
    assert answer["usage"]["completion_tokens"] < 8 * 400
    server.wait_until(server.is_idle)
