"""What the fields beyond the usual ones do to an answer."""

import asyncio
import json
from itertools import pairwise
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RawTokenizer
from tokenizers import decoders, models, pre_tokenizers

from model.batch import SamplingParams
from model.grammar import ANYTHING, Grammar
from server.app import create_app
from server.served import ServedModel, ServedModels
from server.settings import Settings
from server.text.gap_tokens import gap_tokens
from server.text.tokenizer import Tokenizer
from tests.api.serving import TEXT, Served, ask, chat, complete, events, fold, numbered, refused, serve, stream
from tests.api.test_fields import BASE, CHAT, COMPLETIONS, EXAMPLES, REQUESTS, beside, rich, with_field
from tests.fakes import BOS, END, TEMPLATE, ScriptedEngine, byte_tokenizer, chat_template

TEXT_IDS = list(TEXT.encode())


def ids_of(text: str) -> list[int]:
    return ask(serve(), "/tokenize", {"prompt": text, "add_special_tokens": False}).json()["tokens"]


def test_suffix_asks_for_what_stands_in_between() -> None:
    served = rich()
    complete(served, prompt="ab", suffix="cd", max_tokens=3)
    complete(served, suffix="cd", max_tokens=3)
    bos, gap = 256, gap_tokens(byte_tokenizer("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"))
    assert gap is not None
    assert [call[0] for call in served.engine.calls] == [
        [bos, gap.prefix, *ids_of("ab"), gap.suffix, *ids_of("cd"), gap.middle],
        [bos, gap.prefix, gap.suffix, *ids_of("cd"), gap.middle],
    ]


@pytest.mark.parametrize(
    ("names", "has_end"),
    [
        (["<fim_prefix>", "<fim_suffix>", "<fim_middle>"], False),
        (["▁<PRE>", "▁<SUF>", "▁<MID>", "▁<EOT>"], True),
        (["<PRE>", "<SUF>", "<MID>"], False),
        (["<PRE>", "<SUF>"], None),
    ],
)
def test_gap_tokens_are_found_by_their_spelling(names: list[str], has_end: bool | None) -> None:
    found = gap_tokens(byte_tokenizer(*names))
    if has_end is None:
        assert found is None
    else:
        assert found is not None
        assert list(found[:3]) == [260, 261, 262]
        assert (found.end is not None) == has_end


def test_suffix_is_refused_where_it_can_not_be_read() -> None:
    for served, body in (
        (serve(), {"prompt": "a", "suffix": "b"}),
        (rich(), {"prompt": [1, 2], "suffix": "b"}),
        (rich(), {"prompt": "a", "suffix": "b" * 10**6}),
    ):
        assert refused(ask(served, COMPLETIONS, body))["param"] in ("suffix", "prompt")
    assert refused(ask(rich(), COMPLETIONS, {"prompt": "a", "suffix": "b", "echo": True}))["param"] == "echo"
    assert complete(serve(), prompt="a", suffix="")["choices"][0]["text"] == TEXT


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_bad_words_reach_the_engine_as_tokens_within_a_word_and_at_its_beginning(path: str) -> None:
    served = serve()
    assert ask(served, path, BASE[path] | {"bad_words": ["ab", " c", "ab"]}).status_code == 200
    params = served.engine.calls[-1][1]
    assert isinstance(params, SamplingParams)
    assert params.bad_words == tuple(tuple(ids_of(text)) for text in ("ab", " ab", " c"))
    assert params.grammar == ANYTHING
    assert ask(served, path, BASE[path] | {"bad_words": ["a"], "guided_regex": "[ab]"}).status_code == 200
    with_form = served.engine.calls[-1][1]
    assert isinstance(with_form, SamplingParams)
    assert (with_form.bad_words, with_form.grammar) == (((64,), (220, 64)), Grammar("regex", "[ab]"))


def test_bad_words_that_the_model_has_no_tokens_for_are_not_sent_to_it() -> None:
    raw = RawTokenizer(models.BPE(vocab={"a": 0, "b": 1}, merges=[]))
    raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    whole, few = byte_tokenizer(), Tokenizer(raw, {})
    for tokenizer, vocab_size, word in ((few, 2, "c"), (whole, 259, END)):
        engine = ScriptedEngine(lambda prompt, choice, position: 0, vocab_size=vocab_size, eos_token_ids=(1,))
        model = ServedModel(("tiny",), tokenizer, chat_template(whole), engine, created=1)
        served = Served(create_app(Settings(), ServedModels([model]), version="0.0.0"), engine, model)
        sent = []
        for words in ([word], [word, "a"]):
            complete(served, prompt=[0], max_tokens=2, bad_words=words)
            params = engine.calls[-1][1]
            assert isinstance(params, SamplingParams)
            sent.append(params.bad_words)
        assert sent[0] == ()
        assert set(sent[1]) >= {tuple(tokenizer.encode("a", add_special_tokens=False))}
        assert all(0 <= token_id < vocab_size for ids in sent[1] for token_id in ids)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"bad_words": [""]}, "bad_words.0"),
        ({"bad_words": ["a"] * 65}, "bad_words"),
        ({"bad_words": ["a"], "ignore_eos": True}, "ignore_eos"),
        ({"bad_words": ["a"], "allowed_token_ids": [64]}, "allowed_token_ids"),
    ],
)
def test_bad_words_that_can_not_be_kept_out_are_refused(fields: dict[str, Any], param: str) -> None:
    for path in (COMPLETIONS, CHAT):
        assert refused(ask(serve(), path, BASE[path] | fields))["param"] == param


def test_prompt_logprobs_have_vllms_shape() -> None:
    whole = complete(serve(), prompt="abc", prompt_logprobs=2, max_tokens=0, n=2)
    [first, *rest] = whole["choices"][0]["prompt_logprobs"]
    assert first is None
    assert [next(iter(entry)) for entry in rest] == [str(i) for i in ids_of("abc")]
    for entry in rest:
        chosen, *others = entry.values()
        assert [other["rank"] for other in others if other is not chosen] in ([1, 2], [2], [1])
        assert 2 <= len(entry) <= 3
        assert all(set(one) == {"logprob", "rank", "decoded_token"} for one in entry.values())
        assert chosen["rank"] is None or len(entry) == 2
    assert [entry[str(i)]["decoded_token"] for entry, i in zip(rest, ids_of("abc"), strict=True)] == ["a", "b", "c"]
    assert whole["choices"][0]["prompt_logprobs"] == whole["choices"][1]["prompt_logprobs"]
    answer = chat(serve(), prompt_logprobs=0, max_tokens=1)
    assert answer["prompt_logprobs"][0] is None
    assert len(answer["prompt_logprobs"]) == answer["usage"]["prompt_tokens"]


def test_prompt_logprobs_and_an_echo_each_list_as_many_as_they_were_asked_for() -> None:
    choice = complete(serve(), prompt="abc", echo=True, logprobs=1, prompt_logprobs=5, max_tokens=0)["choices"][0]
    assert all(len(top) <= 2 for top in choice["logprobs"]["top_logprobs"] if top)
    assert all(len(entry) >= 5 for entry in choice["prompt_logprobs"] if entry)


def test_prompt_logprobs_are_refused_in_streams_and_beyond_the_limit() -> None:
    for fields in ({"prompt_logprobs": 1, "stream": True}, {"prompt_logprobs": 21}):
        assert refused(ask(serve(), COMPLETIONS, {"prompt": "a"} | fields))["param"] == "prompt_logprobs"
    large = {"prompt": [1] * 2**16, "prompt_logprobs": 20, "n": 8, "max_tokens": 1}
    assert refused(ask(serve(max_model_len=2**17), COMPLETIONS, large))["param"] == "prompt_logprobs"


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_token_ids_are_the_same_streamed_and_not(path: str) -> None:
    body = {"return_token_ids": True, "n": 2, "stop": ["!"]}
    if path == COMPLETIONS:
        body["prompt"] = "ab"
    plain = (complete if path == COMPLETIONS else chat)(serve(), **body)
    chunks = stream(serve(), path, **body)
    streamed: dict[int, list[int]] = {0: [], 1: []}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        streamed[choice["index"]] += choice.get("token_ids", [])
    assert [streamed[0], streamed[1]] == [choice["token_ids"] for choice in plain["choices"]]
    assert len(streamed[0]) * 2 == plain["usage"]["completion_tokens"]
    if path == COMPLETIONS:
        assert plain["choices"][1]["prompt_token_ids"] == [256, *ids_of("ab")]
        assert chunks[0]["choices"][0]["prompt_token_ids"] == [256, *ids_of("ab")]
    else:
        assert len(plain["prompt_token_ids"]) == plain["usage"]["prompt_tokens"]
        assert [chunk.get("prompt_token_ids") for chunk in chunks] == [plain["prompt_token_ids"]] + [None] * (
            len(chunks) - 1
        )


def test_tokens_can_be_written_as_ids_in_log_probabilities() -> None:
    choice = complete(serve("abc"), prompt="a", logprobs=1, return_tokens_as_token_ids=True)["choices"][0]
    assert choice["logprobs"]["tokens"] == [f"token_id:{i}" for i in [*ids_of("abc"), 257]]
    assert all(name.startswith("token_id:") for top in choice["logprobs"]["top_logprobs"] for name in top)


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_obfuscation_pads_every_chunk_to_a_multiple_of_64_bytes(path: str) -> None:
    body = BASE[path] | {"stream": True, "stream_options": {"include_obfuscation": True, "include_usage": True}}
    *frames, _ = numbered(ask(serve("a bb ccc dddd"), path, body).text)
    assert {len(frame + "\n\n") % 64 for frame in frames} == {0}
    padding = [json.loads(frame.removeprefix("data: "))["obfuscation"] for frame in frames]
    assert len(set(padding)) > 2
    assert max(map(len, padding)) < 64


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_continuous_usage_counts_up_to_the_whole(path: str) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    *chunks, last = stream(serve(), path, **BASE[path], stream_options=options)
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert all(before <= after for before, after in pairwise(counts))
    assert counts[-1] == last["usage"]["completion_tokens"] > counts[0]
    alone = {"stream": True, "stream_options": {"continuous_usage_stats": True}}
    error = refused(ask(serve(), path, BASE[path] | alone))
    assert error["param"] == "stream_options.continuous_usage_stats"


@pytest.mark.parametrize(("keep", "left"), [(2, "cd"), (100, f"{BOS}abcd"), (-1, f"{BOS}abcd")])
def test_a_truncated_prompt_keeps_its_end(keep: int, left: str) -> None:
    answer = complete(serve(), prompt="abcd", truncate_prompt_tokens=keep, echo=True, max_tokens=0)
    assert answer["choices"][0]["text"] == left.removeprefix(BOS)
    assert answer["usage"]["prompt_tokens"] == len(left.removeprefix(BOS)) + (BOS in left)


def test_a_prompt_truncated_to_what_fits_leaves_room_for_the_answer() -> None:
    usage = complete(serve("x" * 300), prompt=[1] * 400, truncate_prompt_tokens=-1, max_tokens=56)["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (200, 56)
    assert chat(serve(), truncate_prompt_tokens=5)["usage"]["prompt_tokens"] == 5
    zero = {"prompt": "a", "truncate_prompt_tokens": 0}
    assert refused(ask(serve(), COMPLETIONS, zero))["param"] == "truncate_prompt_tokens"


@pytest.mark.parametrize("is_stream", [True, False])
@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_at_the_deadline_a_request_ends_with_what_it_has(path: str, is_stream: bool) -> None:
    served = serve()

    async def send() -> httpx.Response:
        async with served.client() as client:
            served.engine.stops_at = 3
            return await client.post(path, json=BASE[path] | {"n": 2, "deadline_ms": 500, "stream": is_stream})

    answer = asyncio.run(send())
    assert answer.status_code == 200
    assert not served.engine.in_flight
    if is_stream:
        choices = fold(events(answer.text))
        ends = {(choice["text"], choice["finish_reason"]) for choice in choices.values()}
    else:
        ends = {
            (choice["text"] if path == COMPLETIONS else choice["message"]["content"], choice["finish_reason"])
            for choice in answer.json()["choices"]
        }
    assert ends == {("Gr\ufffd", "length")}  # three tokens, the last of them half of a character


def test_allowed_tokens_go_to_the_engine_and_not_together_with_a_form() -> None:
    served = serve()
    complete(served, prompt="a", allowed_token_ids=[65, 66])
    assert served.engine.calls[0][1].allowed_token_ids == (65, 66)  # type: ignore[attr-defined]
    for fields in ({"allowed_token_ids": [260]}, {"allowed_token_ids": [65], "guided_regex": "a"}):
        assert refused(ask(rich() if "guided_regex" in fields else serve(), COMPLETIONS, {"prompt": "a"} | fields))


@pytest.mark.parametrize(
    ("tier", "used", "priority"),
    [("auto", "default", 7), ("default", "default", 7), ("flex", "flex", 10_007), ("priority", "priority", -9_993)],
)
def test_the_service_tier_ranks_the_request_and_is_told(tier: str, used: str, priority: int) -> None:
    served = serve()
    assert chat(served, service_tier=tier, priority=7)["service_tier"] == used
    assert served.engine.calls[0][3] == priority
    assert {chunk["service_tier"] for chunk in stream(serve(), CHAT, service_tier=tier)} == {used}
    assert "service_tier" not in chat(serve())


def test_the_bodys_request_id_goes_before_the_headers() -> None:
    def name(**body: Any) -> str:
        return ask(serve(), COMPLETIONS, {"prompt": "a"} | body, **{"x-request-id": "header"}).headers["x-request-id"]

    assert (name(), name(request_id="body")) == ("header", "body")
    for bad in ("a b", "", "x" * 65, "a\n"):
        assert refused(ask(serve(), COMPLETIONS, {"prompt": "a", "request_id": bad}))["param"] == "request_id"


def test_verbosity_is_refused_where_the_template_can_not_be_told() -> None:
    assert "verbosity" not in TEMPLATE
    body = BASE[CHAT] | {"verbosity": "low"}
    assert refused(ask(serve(), CHAT, body))["param"] == "verbosity"
    assert chat(serve(), verbosity="medium")


def test_other_names_are_served_and_unknown_ones_are_not() -> None:
    for path in (COMPLETIONS, CHAT):
        assert ask(serve(), path, BASE[path] | {"model": "alias/tiny"}).json()["model"] == "alias/tiny"
        assert refused(ask(serve(), path, BASE[path] | {"model": "other"}), 404)["param"] == "model"


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_in20_fields_together_are_answered_or_refused_by_the_name_of_one_of_them(path: str) -> None:
    served: Served = rich()
    known = [name for name in EXAMPLES if "." not in name and name in REQUESTS[path].model_fields]

    @settings(max_examples=150, deadline=None)
    @given(st.lists(st.sampled_from(known), min_size=2, max_size=4, unique=True))
    def check(names: list[str]) -> None:
        body: dict[str, Any] = dict(BASE[path])
        for name in names:
            body |= {key: value for key, value in beside(path, name).items() if key not in body}
        for name in names:
            example = EXAMPLES[name]
            body = with_field(body, [name], example[path] if isinstance(example, dict) and path in example else example)
        answer = ask(served, path, body)
        if answer.status_code != 200:
            assert refused(answer)["param"].split(".")[0] in body
        assert not served.engine.in_flight

    check()
