"""The official client against the real server and the bundled model: what people do with it works."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import openai
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.e2e.server_process import ServerProcess, running_server

MODEL = "nexttoken-tiny"
PROMPT = "Once upon a time"
MESSAGES = [{"role": "user", "content": "Tell me a story about a cat."}]


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterable[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60) as client:
        yield client


def complete(client: openai.OpenAI, **fields: Any) -> Any:
    return client.completions.create(**{"model": MODEL, "prompt": PROMPT, "temperature": 0, "max_tokens": 24, **fields})


def chat(client: openai.OpenAI, **fields: Any) -> Any:
    body = {"model": MODEL, "messages": MESSAGES, "temperature": 0, "max_completion_tokens": 24, **fields}
    return client.chat.completions.create(**body)


def text_of(choice: Any) -> str:
    """The text of a choice of either endpoint, whole or a chunk's."""
    if hasattr(choice, "text"):
        return choice.text
    return (choice.delta if hasattr(choice, "delta") else choice.message).content or ""


def texts(answer: Any) -> list[str]:
    return [text_of(choice) for choice in answer.choices]


def fold(chunks: Iterable[Any]) -> dict[str, Any]:
    """A stream added up, in the shape of `summary`."""
    choices: dict[int, dict[str, Any]] = {}
    usage = None
    for chunk in chunks:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            whole = choices.setdefault(
                choice.index, {"text": "", "finish_reason": None, "tokens": [], "offsets": [], "logprobs": []}
            )
            assert whole["finish_reason"] is None, "nothing comes after the end"
            for name, part in parts_of(choice).items():
                whole[name] = part if name == "finish_reason" else whole[name] + part
    return {"choices": choices, "num_tokens": usage.completion_tokens if usage else None}


def summary(answer: Any) -> dict[str, Any]:
    """A whole answer, without what differs between any two of them."""
    choices = {choice.index: parts_of(choice) for choice in answer.choices}
    for parts in choices.values():
        # Sums in batches of other shapes are rounded in another way.
        parts["logprobs"] = pytest.approx(parts["logprobs"], abs=1e-4)
    return {"choices": choices, "num_tokens": answer.usage.completion_tokens}


def parts_of(choice: Any) -> dict[str, Any]:
    found = choice.logprobs
    parts: dict[str, Any] = {"text": text_of(choice), "finish_reason": choice.finish_reason}
    if found is None:
        return parts | {"tokens": [], "offsets": [], "logprobs": []}
    if hasattr(found, "content"):
        tokens = [(token.token, token.bytes) for token in found.content]
        return parts | {"tokens": tokens, "offsets": [], "logprobs": [token.logprob for token in found.content]}
    return parts | {"tokens": found.tokens, "offsets": found.text_offset, "logprobs": found.token_logprobs}


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    (model,) = client.models.list().data
    assert model.id == MODEL
    assert client.models.retrieve(MODEL) == model
    assert model.model_extra["max_model_len"] == 2048
    assert model.model_extra["capabilities"]["chat"]


def test_a_plain_answer_has_text_end_and_counts(client: openai.OpenAI) -> None:
    answer = complete(client)
    assert texts(answer)[0].startswith((" ", ","))
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 24
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 24
    message = chat(client).choices[0].message
    assert message.role == "assistant"
    assert message.content


def test_three_choices_of_one_seed_differ_and_come_again(client: openai.OpenAI) -> None:
    for ask in (complete, chat):
        first, second = (texts(ask(client, n=3, temperature=1, seed=5)) for _ in range(2))
        assert first == second
        assert len(set(first)) == 3
        assert texts(ask(client, n=3, temperature=1, seed=6)) != first


def test_log_probabilities_spell_the_text_and_list_the_most_likely_first(client: openai.OpenAI) -> None:
    choice = complete(client, logprobs=3).choices[0]
    assert "".join(choice.logprobs.tokens) == choice.text
    for token, logprob, top in zip(
        choice.logprobs.tokens, choice.logprobs.token_logprobs, choice.logprobs.top_logprobs, strict=True
    ):
        assert len(top) == 3
        assert next(iter(top.items())) == (token, logprob), "greedy takes the most likely one"
    content = chat(client, logprobs=True, top_logprobs=2).choices[0].logprobs.content
    assert bytes(byte for token in content for byte in token.bytes).decode() == texts(chat(client))[0]
    assert all(token.top_logprobs[0].token == token.token for token in content)
    assert all(len(token.top_logprobs) == 2 for token in content)


def test_a_stop_string_across_tokens_ends_the_text_before_it(client: openai.OpenAI) -> None:
    whole = complete(client, logprobs=0).choices[0]
    first, second = whole.logprobs.tokens[7:9]
    stop = first[-1:] + second[:2]
    answer = complete(client, stop=["never to be seen", stop])
    assert texts(answer) == [whole.text[: whole.text.index(stop)]]
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens <= 9
    included = complete(client, stop=stop, extra_body={"include_stop_str_in_output": True})
    assert texts(included) == [texts(answer)[0] + stop]


def test_usage_comes_with_the_last_chunk_of_a_stream_that_asked(client: openai.OpenAI) -> None:
    for ask in (complete, chat):
        *chunks, last = ask(client, stream=True, stream_options={"include_usage": True})
        assert last.choices == []
        assert last.usage.completion_tokens == 24
        assert all(chunk.usage is None and len(chunk.choices) == 1 for chunk in chunks)
        assert all(chunk.usage is None for chunk in ask(client, stream=True))


def test_an_echoed_prompt_is_scored_without_generating(client: openai.OpenAI) -> None:
    prompt = PROMPT + texts(complete(client, max_tokens=8))[0]
    answer = complete(client, prompt=prompt, echo=True, logprobs=1, max_tokens=0)
    choice = answer.choices[0]
    scores = choice.logprobs
    assert choice.text == prompt
    assert choice.finish_reason == "length"
    assert answer.usage.completion_tokens == 0
    assert scores.token_logprobs[0] is None
    assert len(scores.tokens) == answer.usage.prompt_tokens
    continuation = list(zip(scores.tokens, scores.top_logprobs, scores.text_offset, strict=True))[-8:]
    for token, top, offset in continuation:
        assert max(top, key=top.get) == token, "the model's own continuation is its most likely one"
        assert prompt[offset : offset + len(token)] == token


def test_prompts_come_as_lists_and_as_token_ids(client: openai.OpenAI, server: ServerProcess) -> None:
    prompts = [PROMPT, "The little dog"]
    ids = [server.post("/tokenize", {"prompt": prompt}).json()["tokens"] for prompt in prompts]
    alone = [texts(complete(client, prompt=prompt))[0] for prompt in prompts]
    for given_as in (prompts, ids):
        answer = complete(client, prompt=given_as)
        assert texts(answer) == alone
        assert answer.usage.prompt_tokens == sum(map(len, ids))
    assert texts(complete(client, prompt=ids[1])) == alone[1:]


def test_logit_bias_forces_and_forbids_tokens(client: openai.OpenAI, server: ServerProcess) -> None:
    tokens = server.post("/tokenize", {"prompt": " cat", "add_special_tokens": False}).json()["tokens"]
    forced = complete(client, max_tokens=3, logit_bias={str(tokens[0]): 100}, logprobs=0)
    assert len(set(forced.choices[0].logprobs.tokens)) == 1
    greedy = complete(client, max_tokens=1)
    (first,) = server.post("/tokenize", {"prompt": texts(greedy)[0], "add_special_tokens": False}).json()["tokens"]
    assert texts(complete(client, max_tokens=1, logit_bias={str(first): -100})) != texts(greedy)


def test_best_of_answers_with_the_choice_of_highest_mean_log_probability(client: openai.OpenAI) -> None:
    fields = {"temperature": 1, "seed": 3, "logprobs": 0, "extra_body": {"ignore_eos": True}}
    every = complete(client, n=4, **fields).choices
    best = max(every, key=lambda choice: sum(choice.logprobs.token_logprobs))
    answer = complete(client, n=1, best_of=4, **fields)
    assert texts(answer) == [best.text]
    assert answer.usage.completion_tokens == 4 * 24


def test_fields_beyond_openais_take_effect(client: openai.OpenAI) -> None:
    greedy = texts(complete(client))
    for extra in ({"top_k": 1}, {"min_p": 1.0}):
        assert texts(complete(client, temperature=1, extra_body=extra)) == greedy
    assert texts(complete(client, extra_body={"repetition_penalty": 2.0})) != greedy
    short = chat(client, messages=[{"role": "user", "content": "Hello!"}], max_completion_tokens=200)
    assert short.choices[0].finish_reason == "stop"
    longer = short.usage.completion_tokens + 10
    for extra in ({"min_tokens": longer}, {"ignore_eos": True}):
        answer = chat(client, messages=[{"role": "user", "content": "Hello!"}], max_tokens=longer, extra_body=extra,
                      max_completion_tokens=openai.omit)  # fmt: skip
        assert answer.usage.completion_tokens == longer


def test_a_misspelt_field_is_named_in_a_header(client: openai.OpenAI) -> None:
    raw = client.completions.with_raw_response.create(
        model=MODEL, prompt=PROMPT, max_tokens=1, extra_body={"temprature": 1}
    )
    assert raw.headers["x-nexttoken-warnings"] == "unknown field 'temprature', did you mean 'temperature'?"
    assert raw.parse().usage.completion_tokens == 1


def test_refusals_are_the_clients_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as invalid:
        complete(client, temperature=3)
    assert (invalid.value.param, invalid.value.type) == ("temperature", "invalid_request_error")
    with pytest.raises(openai.BadRequestError) as too_long:
        chat(client, max_completion_tokens=5000)
    assert (too_long.value.param, too_long.value.code) == ("messages", "context_length_exceeded")
    with pytest.raises(openai.BadRequestError) as unsupported:
        chat(client, modalities=["text", "audio"])
    assert unsupported.value.param == "modalities"
    with pytest.raises(openai.NotFoundError) as unknown:
        complete(client, model="gpt-4o", stream=True)
    assert (unknown.value.param, unknown.value.code) == ("model", "model_not_found")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4o")
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model=MODEL, input="text")


def test_a_client_that_gives_up_leaves_nothing_running(client: openai.OpenAI, server: ServerProcess) -> None:
    with pytest.raises(openai.APITimeoutError):
        complete(client.with_options(timeout=0.3), max_tokens=1900, extra_body={"ignore_eos": True})
    server.wait_until(server.is_idle)


def test_a_key_is_asked_for_and_taken(tmp_path: Path) -> None:
    with running_server(tmp_path, "--api-key", "right") as server:
        wrong = openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong", max_retries=0)
        with pytest.raises(openai.AuthenticationError) as refused:
            complete(wrong)
        assert refused.value.code == "invalid_api_key"
        assert texts(complete(wrong.with_options(api_key="right")))


def test_each_token_of_a_stream_is_a_chunk(client: openai.OpenAI) -> None:
    # A reader that the machine lets wait gets several tokens at once, so one stream in ten is asked to be as it should.
    for _ in range(10):
        chunks = list(complete(client, stream=True, max_tokens=60, stream_options={"include_usage": True}))
        num_texts = sum(1 for chunk in chunks for text in texts(chunk) if text)
        num_tokens = chunks[-1].usage.completion_tokens
        assert num_texts <= num_tokens
        if num_texts >= num_tokens * 0.8:
            return
    raise AssertionError(f"{num_tokens} tokens came in {num_texts} chunks")


def test_the_first_chunk_comes_while_the_rest_is_still_to_be_computed(
    client: openai.OpenAI, server: ServerProcess
) -> None:
    server.wait_until(server.is_idle)
    computed = server.metric("generation_tokens_total")
    with complete(client, stream=True, max_tokens=1900, extra_body={"ignore_eos": True}) as stream:
        assert text_of(next(stream).choices[0])
        assert server.metric("generation_tokens_total") - computed < 1900
        assert server.metric("num_requests_running") == 1
    server.wait_until(server.is_idle)


def test_sixteen_requests_at_once_have_the_texts_that_each_has_alone(
    client: openai.OpenAI, server: ServerProcess
) -> None:
    names = "Tom Mia Sam Lily Ben Anna Max Lucy Tim Sara Joe Emma Dan Amy Bob Zoe".split()  # noqa: SIM905
    bodies = [{"model": MODEL, "prompt": f"One day, {name}", "temperature": 0, "max_tokens": 32} for name in names]

    async def all_at_once() -> list[Any]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=60) as http:
            return await asyncio.gather(*(http.completions.create(**body) for body in bodies))

    together = [texts(answer) for answer in asyncio.run(all_at_once())]
    assert together == [texts(client.completions.create(**body)) for body in bodies]


def test_the_asynchronous_client_streams(server: ServerProcess, client: openai.OpenAI) -> None:
    async def streamed() -> str:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none", timeout=60) as http:
            stream = await http.chat.completions.create(
                model=MODEL, messages=MESSAGES, temperature=0, max_completion_tokens=24, stream=True
            )
            return "".join([text async for chunk in stream for text in texts(chunk)])

    assert asyncio.run(streamed()) == texts(chat(client))[0]


SHARED = {
    "stop": st.sampled_from(["a", "th", [" the", "."], "\n", "Once", "never to be seen"]),
    "n": st.integers(1, 3),
    "temperature": st.sampled_from([0, 1.0]),
    "presence_penalty": st.sampled_from([-1.0, 1.0]),
}
PROMPTS = st.sampled_from(["A", ["A", "Ü"]])
COMPLETION = SHARED | {"echo": st.booleans(), "logprobs": st.integers(0, 2), "prompt": PROMPTS}
CHAT = SHARED | {"logprobs": st.just(True)}


@pytest.mark.parametrize(
    ("ask", "limit", "fields"),
    [(complete, "max_tokens", COMPLETION), (chat, "max_completion_tokens", CHAT)],
)
def test_a_stream_adds_up_to_the_plain_answer(client: openai.OpenAI, ask: Any, limit: str, fields: Any) -> None:
    @settings(max_examples=20, deadline=None)
    @given(st.fixed_dictionaries({"seed": st.integers(0, 2**32), limit: st.integers(1, 20)}, optional=fields))
    def check(body: dict[str, Any]) -> None:
        streamed = fold(ask(client, **body, stream=True, stream_options={"include_usage": True}))
        assert streamed == summary(ask(client, **body))

    check()
