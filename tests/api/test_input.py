"""Hostile and mistaken input is refused with a 400 that names the field, and the server stays well."""

from typing import Any

import httpx
import pytest
from annotated_types import Ge, Le
from hypothesis import given, settings
from hypothesis import strategies as st

from server.protocol.chat import ChatCompletionRequest
from server.protocol.completions import CompletionRequest
from server.protocol.wire import WireModel
from tests.api.serving import ask, chat, complete, refused, serve, stream

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
MESSAGES = [{"role": "user", "content": "hi"}]
VOCABULARY = 260
JSON = {"content-type": "application/json"}


def minimal(path: str) -> dict[str, Any]:
    return {"prompt": "hi"} if path == COMPLETIONS else {"messages": MESSAGES}


def part(kind: str) -> dict[str, Any]:
    """A message whose content is one part of this kind."""
    return {"role": "user", "content": [{"type": kind, kind: {"url": "http://127.0.0.1/"}}]}


def post(path: str, **body: Any) -> httpx.Response:
    return ask(serve(), path, minimal(path) | body)


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("n", 1_000_000, id="in01"),
        pytest.param("n", 2**63, id="in01"),
        pytest.param("n", 0, id="in01"),
        pytest.param("min_tokens", 2**31, id="in04"),
        pytest.param("min_tokens", 2**63, id="in04"),
        pytest.param("min_tokens", 255, id="in04"),
        pytest.param("top_k", 0.01, id="in06"),
        pytest.param("max_tokens", "5", id="in06"),
        pytest.param("n", 1.5, id="in06"),
        pytest.param("n", 1.0, id="in06"),
        pytest.param("n", True, id="in06"),
        pytest.param("seed", "a", id="in06"),
        pytest.param("stream", "yes", id="in06"),
        pytest.param("stream", 1, id="in06"),
        pytest.param("temperature", "NaN", id="in07"),
        pytest.param("temperature", -0.1, id="in07"),
        pytest.param("top_p", 1.1, id="in07"),
        pytest.param("repetition_penalty", 1e-40, id="in08"),
        *(
            pytest.param("logit_bias", {key: 1}, id="in09")
            for key in ("260", "-1", "abc", "1.0", "٣", "01", "9" * 4000)
        ),
        pytest.param("logit_bias", {"1": 1e9}, id="in09"),
        pytest.param("logit_bias", {str(i): 1 for i in range(10**5)}, id="in09"),
        *(pytest.param("stop_token_ids", ids, id="in14") for ids in ([VOCABULARY], [-1], [2**31], [True], [1] * 10**5)),
        *(pytest.param("stop", value, id="in22") for value in ("", [""], ["a"] * 10**5, ["a" * 10**6], ["a", 1], [[]])),
        pytest.param("stream_options", {"include_usage": True}, id="stream_options_needs_stream"),
        pytest.param("cache_salt", "x" * 1000, id="bounded_string"),
    ],
)
def test_a_value_out_of_range_is_refused_naming_the_field(path: str, field: str, value: Any) -> None:
    error = refused(post(path, **{"max_tokens": 250 if field == "min_tokens" else 2, field: value}))
    assert error["param"].split(".")[0] == field


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        pytest.param(COMPLETIONS, {"best_of": 10**6}, "best_of", id="in02"),
        pytest.param(COMPLETIONS, {"best_of": 1, "n": 2}, "best_of", id="in02"),
        pytest.param(COMPLETIONS, {"best_of": 4, "stream": True}, "best_of", id="in02"),
        *(pytest.param(COMPLETIONS, {"prompt": p}, "prompt", id="in03") for p in ("", [], [""], [[]], ["a", []])),
        pytest.param(CHAT, {"messages": []}, "messages", id="in03"),
        pytest.param(COMPLETIONS, {"prompt": {"a": 1}}, "prompt", id="in03"),
        pytest.param(CHAT, {"messages": None}, "messages", id="in03"),
        *(
            pytest.param(COMPLETIONS, {"prompt": p}, "prompt", id="in10")
            for p in ([-1], [VOCABULARY], [2**40], [[1], [VOCABULARY]], [True], [1, "a"])
        ),
        pytest.param("/detokenize", {"tokens": [VOCABULARY]}, "tokens", id="in10"),
        pytest.param("/detokenize", {"tokens": [-1]}, "tokens.0", id="in10"),
        pytest.param(CHAT, {"logprobs": True, "top_logprobs": 21}, "top_logprobs", id="in23"),
        pytest.param(CHAT, {"logprobs": True, "top_logprobs": 10**6}, "top_logprobs", id="in23"),
        pytest.param(CHAT, {"logprobs": True, "top_logprobs": -1}, "top_logprobs", id="in23"),
        pytest.param(CHAT, {"top_logprobs": 2}, "top_logprobs", id="in23"),
        pytest.param(COMPLETIONS, {"logprobs": True}, "logprobs", id="in23"),
        pytest.param(COMPLETIONS, {"logprobs": 21}, "logprobs", id="in23"),
        pytest.param(COMPLETIONS, {"max_tokens": 0}, "max_tokens", id="nothing_to_generate"),
        pytest.param(CHAT, {"max_tokens": 0}, "max_tokens", id="nothing_to_generate"),
        pytest.param(CHAT, {"max_tokens": 1, "max_completion_tokens": 2}, "max_completion_tokens", id="two_names"),
        pytest.param(CHAT, {"messages": [{"role": "robot", "content": ""}]}, "messages.0.role", id="in19"),
        pytest.param(CHAT, {"messages": [*MESSAGES, part("x")]}, "messages.1.content.0.type", id="in19"),
        pytest.param(CHAT, {"messages": [part("image_url")]}, "messages.0.content.0.type", id="nw05"),
        *(
            pytest.param(CHAT, {"messages": [*MESSAGES, message]}, f"messages.1.{member}", id="incomplete_message")
            for message, member in (
                *(({"role": role}, "content") for role in ("system", "developer", "user", "assistant")),
                *(({"role": "user", "content": nothing}, "content") for nothing in (None, [])),
                ({"role": "assistant", "tool_calls": []}, "content"),
                ({"role": "tool", "tool_call_id": "1"}, "content"),
                ({"role": "tool", "content": "x"}, "tool_call_id"),
                ({"role": "function", "content": "x"}, "name"),
            )
        ),
        pytest.param("/tokenize", {"messages": [{"role": "user"}]}, "messages.0.content", id="incomplete_message"),
        pytest.param(CHAT, {"chat_template_kwargs": {"tokenize": True}}, "messages", id="gr02"),
        pytest.param(CHAT, {"chat_template": "x"}, "chat_template", id="gr10"),
        pytest.param(
            CHAT,
            {"continue_final_message": True, "add_generation_prompt": True},
            "continue_final_message",
            id="exclusive",
        ),
        pytest.param("/tokenize", {}, "prompt", id="tokenize_nothing"),
        pytest.param("/tokenize", {"prompt": "a", "messages": MESSAGES}, "prompt", id="tokenize_both"),
        pytest.param(COMPLETIONS, {"prompt_embeds": "AAAA"}, "prompt_embeds", id="ld02"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(path: str, body: dict[str, Any], param: str) -> None:
    base = minimal(path) if path.startswith("/v1") else {}
    assert refused(ask(serve(), path, base | body))["param"] == param


def test_the_message_names_the_field_to_clients_that_show_nothing_else() -> None:
    assert refused(post(CHAT, temperature=3))["message"] == "temperature: Input should be less than or equal to 2"
    role = refused(ask(serve(), CHAT, {"messages": [{"role": "robot", "content": "Hi"}]}))
    assert role["message"].startswith("messages.0.role: Input should be 'system'")


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "file"])
def test_a_part_that_is_no_text_is_told_that_the_model_reads_text_only(kind: str) -> None:
    error = refused(ask(serve(), CHAT, {"messages": [part(kind)]}))
    assert error["message"].startswith("messages.0.content.0.type: the model reads text only")


@pytest.mark.parametrize(
    "instead",
    [
        {"tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
        {"function_call": {"name": "f", "arguments": "{}"}},
        {"refusal": "no"},
        {"reasoning_content": "cut off while thinking"},
    ],
)
def test_an_assistant_may_lack_content_where_it_has_something_else(instead: dict[str, Any]) -> None:
    assert chat(serve(), messages=[*MESSAGES, {"role": "assistant", "content": None, **instead}, *MESSAGES])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (COMPLETIONS, {"logprobs": 21}),
        (COMPLETIONS, {"prompt_logprobs": 21}),
        (CHAT, {"logprobs": True, "top_logprobs": 21}),
    ],
)
def test_a_limit_that_a_setting_makes_names_the_setting(path: str, body: dict[str, Any]) -> None:
    assert refused(post(path, **body))["message"].endswith("is at most 20 on this server (--max-logprobs)")


def integer_fields(model: type[WireModel]) -> list[str]:
    return [
        name
        for name, field in model.model_fields.items()
        if any(isinstance(limit, Ge | Le) for limit in field.metadata) or "int" in str(field.annotation)
        if "float" not in str(field.annotation) and "list" not in str(field.annotation)
    ]


@pytest.mark.parametrize(
    ("path", "field"),
    [(COMPLETIONS, name) for name in integer_fields(CompletionRequest)]
    + [(CHAT, name) for name in integer_fields(ChatCompletionRequest)],
)
def test_in05_every_integer_has_both_bounds(path: str, field: str) -> None:
    body = minimal(path) | ({"logprobs": True} if field == "top_logprobs" else {})
    for raw in ("-1e400", "1e400", str(2**63), str(2**64), str(-(2**63) - 1), "1" + "0" * 5000):
        content = str(body)[:-1].replace("'", '"').replace("True", "true") + f', "{field}": {raw}}}'
        error = refused(ask(serve(), path, content.encode(), **JSON))
        assert error["param"] in (field, None)  # None: no JSON at all by our parser


@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"-Infinity", b"1e400"])
@pytest.mark.parametrize(
    "field", ["temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"]
)
def test_in07_no_float_takes_nan_or_infinity(field: str, value: bytes) -> None:
    body = b'{"prompt": "a", "' + field.encode() + b'": ' + value + b"}"
    assert refused(ask(serve(), COMPLETIONS, body, **JSON))["param"] == field


def test_in12_impossible_tokens_have_a_finite_logprob() -> None:
    answer = complete(serve(), prompt="ab", logprobs=5, echo=True, max_tokens=2)
    top = [value for entry in answer["choices"][0]["logprobs"]["top_logprobs"] if entry for value in entry.values()]
    assert min(top) == -9999.0


def test_in23_logprobs_that_no_answer_can_hold_are_refused_at_the_door() -> None:
    served = serve("ok", max_model_len=2**17)
    for body in (
        {"logprobs": 20, "max_tokens": 2**16, "n": 4},
        {"logprobs": 20, "max_tokens": 1, "n": 16, "echo": True, "prompt": [1] * 2**15, "stream": True},
    ):
        assert refused(ask(served, COMPLETIONS, {"prompt": "a"} | body))["param"] == "logprobs"
    assert complete(served, prompt="a", logprobs=20, max_tokens=2**16)
    assert stream(served, COMPLETIONS, prompt="a", logprobs=20, max_tokens=2**16, n=4)


def stable(answer: dict[str, Any]) -> dict[str, Any]:
    return answer | {"id": "", "created": 0, "usage": None}


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT])
def test_in18_null_is_the_same_as_absent_for_every_field(path: str) -> None:
    served, base = serve(), minimal(path)
    answer = complete if path == COMPLETIONS else chat
    model = CompletionRequest if path == COMPLETIONS else ChatCompletionRequest
    plain = stable(answer(served, **base))
    fields = [*model.model_fields, *model.refused]
    for field in fields:
        if field not in base:
            assert stable(answer(served, **base, **{field: None})) == plain, field
    nulls = dict.fromkeys(set(fields) - set(base))
    assert stable(answer(served, **base, **nulls)) == plain
    assert stream(served, path, **base, stream_options={"include_usage": None})


def test_in18_null_within_messages_is_the_same_as_absent() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": None}}
    turns = [
        {"role": "user", "content": "x", "name": None, "tool_calls": None, "refusal": None},
        {"role": "assistant", "content": None, "tool_calls": [call], "function_call": None, "audio": None},
        {"role": "tool", "tool_call_id": "1", "name": None, "content": "x"},
        {"role": "function", "name": "f", "content": None},
    ]
    assert chat(serve(), messages=turns)["usage"]["prompt_tokens"] > 0


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool", "function"])
def test_in19_a_string_and_its_text_part_render_the_same(role: str) -> None:
    def ids(content: Any) -> Any:
        message = {"role": role, "content": content, "tool_call_id": "1", "name": "f"}
        return ask(serve(), "/tokenize", {"messages": [message]}).json()["tokens"]

    assert ids("x") == ids([{"type": "text", "text": "x"}])
    assert ids("") == ids([{"type": "text", "text": ""}])
    assert ids("a\nb") == ids([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])


def test_in21_tokenize_refuses_what_can_not_fit_without_tokenizing_it() -> None:
    error = refused(ask(serve(), "/tokenize", {"prompt": "a" * 10**7}))
    assert error["code"] == "context_length_exceeded"


@pytest.mark.parametrize("model", [CompletionRequest, ChatCompletionRequest])
def test_every_known_field_that_is_not_honoured_is_a_400_naming_it(model: type[WireModel]) -> None:
    path = COMPLETIONS if model is CompletionRequest else CHAT
    for field, refusal in model.refused.items():
        assert refused(post(path, **{field: {"any": "value"}}))["param"] == field
        for harmless in refusal.harmless:
            assert post(path, **{field: harmless}).status_code == 200, field


@pytest.mark.parametrize(("num_tokens", "fits"), [(254, True), (255, True), (256, False), (257, False)])
def test_dt09_the_last_prompt_that_fits_gives_exactly_the_tokens_left(num_tokens: int, fits: bool) -> None:
    served = serve("x" * 300)
    answer = ask(served, COMPLETIONS, {"prompt": [1] * num_tokens})
    if fits:
        assert answer.json()["usage"]["completion_tokens"] == min(16, 256 - num_tokens)
        assert answer.json()["choices"][0]["finish_reason"] == "length"
        room = 256 - num_tokens
        assert ask(served, COMPLETIONS, {"prompt": [1] * num_tokens, "max_tokens": room}).status_code == 200
        answer = ask(served, COMPLETIONS, {"prompt": [1] * num_tokens, "max_tokens": room + 1})
    error = refused(answer)
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "prompt"
    assert str(num_tokens) in error["message"]
    assert "256" in error["message"]
    assert ("lower max_tokens" in error["message"]) == fits, "only where fewer would do"


def test_dt09_a_prompt_that_fills_the_context_can_be_scored_without_an_answer() -> None:
    body = {"prompt": [1] * 256, "max_tokens": 0, "echo": True}
    assert ask(serve(), COMPLETIONS, body).json()["usage"]["completion_tokens"] == 0
    assert refused(ask(serve(), COMPLETIONS, body | {"prompt": [1] * 257}))["code"] == "context_length_exceeded"


def test_dt09_a_chat_without_max_tokens_runs_to_the_end_of_the_context() -> None:
    answer = chat(serve("x" * 300))
    assert answer["usage"]["total_tokens"] == 256
    assert answer["choices"][0]["finish_reason"] == "length"


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**65), 2**65)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=4),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=4), children, max_size=3),
    max_leaves=5,
)


@pytest.mark.parametrize("path", [COMPLETIONS, CHAT, "/tokenize", "/detokenize"])
def test_in24_no_value_of_any_field_is_a_500(path: str) -> None:
    model = ChatCompletionRequest if path == CHAT else CompletionRequest
    fields = [*model.model_fields, *model.refused, "tokens", "unknown"]
    served = serve("ok")

    @settings(max_examples=150, deadline=None)
    @given(st.dictionaries(st.sampled_from(fields), JSON_VALUES, max_size=3))
    def check(body: dict[str, Any]) -> None:
        answer = ask(served, path, (minimal(path) if path.startswith("/v1") else {}) | body)
        if answer.status_code != 200:
            assert answer.status_code in (400, 404), answer.text
            refused(answer, answer.status_code)
        assert not served.engine.in_flight

    check()
