"""What /v1/models says of a model is what its requests then find."""

from dataclasses import replace
from typing import Any

import pytest
from msgspec import structs

from server.app import create_app
from server.served import ServedModels
from server.settings import Settings
from server.text.dialect import dialect_of
from server.text.template import ChatTemplate
from tests.api.serving import Served, ask, serve
from tests.fakes import TEMPLATE, byte_tokenizer

FIM = ("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
THINKING = TEMPLATE.replace("assistant\n", "assistant\n<think>\n")
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def serve_like(template: str | None, *more_tokens: str) -> Served:
    """A model with this chat template, these special tokens."""
    served = serve("hi", max_model_len=4096)
    tokenizer = byte_tokenizer(*more_tokens) if more_tokens else served.model.tokenizer
    chat_template = ChatTemplate({} if template is None else {"default": template}, tokenizer.special_tokens)
    served.engine._model = structs.replace(served.engine._model, vocab_size=260 + len(more_tokens))
    model = replace(served.model, tokenizer=tokenizer, template=chat_template, dialect=dialect_of(chat_template))
    return Served(create_app(Settings(), ServedModels([model]), version="0.0.0"), served.engine, model)


def capabilities(served: Served) -> dict[str, bool]:
    (model, alias) = ask(served, "/v1/models", None).json()["data"]
    assert alias == model | {"id": "alias/tiny"}
    assert ask(served, "/v1/models/tiny", None).json() == model
    assert model["max_model_len"] == 4096
    found: dict[str, bool] = model["capabilities"]
    return found


@pytest.mark.parametrize("template", [None, TEMPLATE, THINKING])
@pytest.mark.parametrize("more_tokens", [(), FIM])
def test_a_capability_is_there_if_a_request_for_it_is_answered(
    template: str | None, more_tokens: tuple[str, ...]
) -> None:
    served = serve_like(template, *more_tokens)
    said = capabilities(served)
    chat = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    requests: dict[str, tuple[str, dict[str, Any]]] = {
        "completions": ("/v1/completions", {"prompt": "a"}),
        "chat": ("/v1/chat/completions", chat),
        "logprobs": ("/v1/completions", {"prompt": "a", "logprobs": 1}),
        "structured_outputs": ("/v1/completions", {"prompt": "a", "structured_outputs": {"regex": "[ab]"}}),
        "tools": ("/v1/chat/completions", chat | {"tools": [TOOL]}),
        "fill_in_the_middle": ("/v1/completions", {"prompt": "a", "suffix": "b"}),
    }
    found = {name: ask(served, *request).status_code == 200 for name, request in requests.items()}
    assert found | {"reasoning": template == THINKING} == said
    assert said["chat"] == (template is not None)
    assert said["fill_in_the_middle"] == bool(more_tokens)


def test_a_model_that_loads_is_listed_without_what_is_not_known_yet() -> None:
    served = serve()
    served.engine.phase = "starting"
    (model, _) = ask(served, "/v1/models", None).json()["data"]
    assert model == {"id": "tiny", "object": "model", "created": 1, "owned_by": "nexttoken"}
