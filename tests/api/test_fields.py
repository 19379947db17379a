"""Each row of the page of request fields is true: what is honoured has an effect, what is refused is a 400."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from server.app import create_app
from server.fields_table import OPENAI_CHAT_FIELDS, OPENAI_COMPLETION_FIELDS, Row, page, rows
from server.protocol.chat import ChatCompletionRequest
from server.protocol.completions import CompletionRequest
from server.protocol.structured import StructuredOutputs
from server.served import ServedModel, ServedModels
from server.settings import Settings
from server.store import ChatStore
from server.text.dialect import dialect_of
from server.text.template import ChatTemplate
from tests.api.serving import Served, ask, refused
from tests.fakes import ScriptedEngine, byte_tokenizer, says

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
REQUESTS = {COMPLETIONS: CompletionRequest, CHAT: ChatCompletionRequest}
PAGE = Path(__file__).parents[2] / "docs" / "fields.md"
TOKENIZER = byte_tokenizer("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
TEXT = "Grüße<|start|>, 世界!"
TEMPLATE = (
    "{% if tools %}<tool_call>{{ tools | tojson }}{% endif %}{{ verbosity }} {{ enable_thinking }}{# </think> #}"
    "{% for message in messages %}<|start|>{{ message.role }}\n{{ message.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
BASE = {
    COMPLETIONS: {"prompt": "ab", "seed": 1},
    CHAT: {"messages": [{"role": "user", "content": "ab"}], "seed": 1},
}

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}
FUNCTION = {"name": "f", "parameters": SCHEMA}
TOOLS = {"tools": [{"type": "function", "function": FUNCTION}]}

EXAMPLES: dict[str, Any] = {
    "add_generation_prompt": False,
    "add_special_tokens": {COMPLETIONS: False, CHAT: True},
    "allowed_token_ids": [65, 66],
    "bad_words": ["ü"],
    "best_of": 2,
    "cache_salt": "salt",
    "chat_template_kwargs": {"enable_thinking": False},
    "continue_final_message": True,
    "deadline_ms": 60_000,
    "echo": True,
    "frequency_penalty": 1,
    "function_call": "none",
    "functions": [FUNCTION],
    "guided_choice": ["a", "b"],
    "grammar": 'root ::= "a"',
    "guided_grammar": 'start: "a"',
    "guided_json": SCHEMA,
    "guided_regex": "a+",
    "ignore_eos": True,
    "include_stop_str_in_output": True,
    "include_warnings": True,
    "json_schema": SCHEMA,
    "logit_bias": {"5": 1},
    "logprobs": {COMPLETIONS: 1, CHAT: True},
    "max_completion_tokens": 3,
    "max_tokens": 3,
    "messages": [{"role": "user", "content": "xyz"}],
    "metadata": {"a": "b"},
    "min_p": 0.5,
    "min_tokens": 2,
    "model": "alias/tiny",
    "n": 2,
    "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "Grüße"},
    "prediction.content": "Gras",
    "prediction.type": "content",
    "presence_penalty": 1,
    "priority": 3,
    "prompt": "xyz",
    "prompt_cache_key": "key",
    "prompt_logprobs": 1,
    "reasoning_effort": "none",
    "repetition_penalty": 2,
    "request_id": "my-own-id",
    "response_format": {"type": "json_object"},
    "response_format.json_schema": {"name": "x", "schema": SCHEMA},
    "response_format.json_schema.description": "about it",
    "response_format.json_schema.name": "other",
    "response_format.json_schema.schema": SCHEMA,
    "response_format.json_schema.strict": True,
    "response_format.schema": SCHEMA,
    "response_format.type": "json_object",
    "return_token_ids": True,
    "return_tokens_as_token_ids": True,
    "safety_identifier": "someone",
    "seed": 2,
    "service_tier": "flex",
    "skip_special_tokens": False,
    "stop": "ü",
    "stop_token_ids": [65],
    "store": True,
    "stream": True,
    "stream_options": {"include_usage": True},
    "stream_options.continuous_usage_stats": True,
    "stream_options.include_obfuscation": True,
    "stream_options.include_usage": True,
    "structured_outputs": {"regex": "a"},
    "structured_outputs.choice": ["a"],
    "structured_outputs.grammar": 'start: "a"',
    "structured_outputs.json": SCHEMA,
    "structured_outputs.json_object": True,
    "structured_outputs.regex": "a",
    "suffix": "cd",
    "temperature": 0.5,
    "thinking_token_budget": 5,
    "tool_choice": "none",
    "tools": TOOLS["tools"],
    "top_k": 3,
    "top_logprobs": 2,
    "top_p": 0.5,
    "truncate_prompt_tokens": 1,
    "typical_p": 0.5,
    "user": "someone",
    "verbosity": "high",
}
ASSISTANT_LAST = [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}]
BESIDE: dict[str, dict[str, Any]] = {
    "response_format.schema": {"response_format": {"type": "json_object"}},
    "continue_final_message": {"messages": ASSISTANT_LAST},
    "function_call": {"functions": [FUNCTION]},
    "include_stop_str_in_output": {"stop": "ü"},
    "include_warnings": {"not_a_field": 1},
    "metadata": {"store": True},
    "prediction.content": {"prediction": {"type": "content", "content": "Grüße"}},
    "prediction.type": {"prediction": {"type": "content", "content": "Grüße"}},
    "parallel_tool_calls": TOOLS | {"tool_choice": "required"},
    "return_tokens_as_token_ids": {"logprobs": True},
    "stream_options": {"stream": True},
    "stream_options.continuous_usage_stats": {"stream": True, "stream_options": {"include_usage": True}},
    "tool_choice": TOOLS,
    "top_logprobs": {"logprobs": True},
    **{f"structured_outputs.{name}": {"structured_outputs": {"regex": "a"}} for name in StructuredOutputs.refused},
}
"""What an example needs beside it, by the field or the longest beginning of its path."""

ELSEWHERE = {"deadline_ms", "store", "metadata", "prediction"}
"""Their effects, which the answer doesn't show, have tests of their own."""


def table() -> Iterator[tuple[str, Row]]:
    for path, model in REQUESTS.items():
        for row in rows(model):
            yield path, row


def rich(store: ChatStore | None = None) -> Served:
    """An app whose model can do whatever a field may ask for."""
    engine = ScriptedEngine(says(TOKENIZER, TEXT), vocab_size=263, max_model_len=2048)
    jinja = ChatTemplate({"default": TEMPLATE}, TOKENIZER.special_tokens, TOKENIZER.control_tokens)
    model = ServedModel(("tiny", "alias/tiny"), TOKENIZER, jinja, engine, created=1, dialect=dialect_of(jinja))
    return Served(create_app(Settings(), ServedModels([model]), version="0.0.0", store=store), engine, model)


def with_field(body: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    name, *rest = path
    return body | {name: with_field(body.get(name, {}), rest, value) if rest else value}


def beside(path: str, name: str) -> dict[str, Any]:
    parts = name.split(".")
    beginnings = [".".join(parts[:count]) for count in range(len(parts), 0, -1)]
    extra = next((BESIDE[one] for one in beginnings if one in BESIDE), {})
    if path == COMPLETIONS and "logprobs" in extra:
        extra = extra | {"logprobs": 1}
    if name.startswith("response_format.json_schema"):
        extra = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "array"}}}}
    return BASE[path] | extra


def seen(path: str, body: dict[str, Any], store: ChatStore) -> tuple[str, list[Any]]:
    """All that can be told from outside and by the engine: the answer without what is always new, and its work."""
    served = rich(store)
    answer = ask(served, path, body)
    assert answer.status_code == 200, answer.text
    header = answer.headers["x-request-id"]
    text = re.sub(r'"created":\d+', "", header + answer.text)
    return re.sub(r"(call_)?[0-9a-f]{24,32}", "", text), served.engine.calls


@pytest.mark.parametrize(("path", "row"), [pytest.param(p, r, id=f"{p} {r.name}") for p, r in table()])
def test_the_row_is_true(path: str, row: Row, tmp_path: Path) -> None:
    body, store = beside(path, row.name), ChatStore(tmp_path / "chats.sqlite")
    if row.status == "refused":
        error = refused(ask(rich(), path, with_field(body, row.name.split("."), {"any": "value"})))
        assert error["param"] == row.name
        return
    example = EXAMPLES[row.name]
    value = example[path] if isinstance(example, dict) and path in example else example
    without, given = (seen(path, one, store) for one in (body, with_field(body, row.name.split("."), value)))
    if row.name.split(".")[0] not in ELSEWHERE:
        assert (without == given) == (row.status == "kept")


@pytest.mark.parametrize(
    ("path", "name", "default", "values", "said"),
    [
        (COMPLETIONS, "max_tokens", "`16`", "integer 0 to 2^31-1", "0 only with `echo` or `prompt_logprobs`"),
        (CHAT, "max_tokens", "", "integer 1 to 2^31-1", ""),
        (CHAT, "max_completion_tokens", "", "integer 1 to 2^31-1", ""),
        (COMPLETIONS, "logprobs", "", "integer 0 to 100", "--max-logprobs"),
        (CHAT, "top_logprobs", "", "integer 0 to 100", "--max-logprobs"),
    ],
)
def test_a_row_tells_the_limits_that_requests_meet(path: str, name: str, default: str, values: str, said: str) -> None:
    (row,) = (row for of, row in table() if (of, row.name) == (path, name))
    assert (row.default, row.values) == (default, values)
    assert said in row.meaning


def test_no_row_refers_to_its_neighbour_which_the_order_by_name_takes_away() -> None:
    assert not [row.name for _, row in table() if row.meaning.startswith("The same,")]


def test_every_field_of_openais_requests_has_its_row() -> None:
    for model, names in ((CompletionRequest, OPENAI_COMPLETION_FIELDS), (ChatCompletionRequest, OPENAI_CHAT_FIELDS)):
        assert names <= {row.name for row in rows(model)}


def test_the_page_of_fields_is_up_to_date() -> None:
    assert page() == PAGE.read_text(), "run: python -m server.fields_table docs/fields.md"
