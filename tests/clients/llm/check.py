"""LLM, as a library and on the command line."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Literal

from claims import BASE_URL, MODEL, check
from pydantic import BaseModel, Field

# isort: split
# docs: begin
import llm

# docs: end

# LLM reads the models of other servers from a file in its own folder.
os.environ["LLM_USER_PATH"] = tempfile.mkdtemp()
template = (Path(__file__).parent / "extra-openai-models.yaml").read_text()
Path(os.environ["LLM_USER_PATH"], "extra-openai-models.yaml").write_text(
    template.replace("BASE_URL", BASE_URL).replace("MODEL", MODEL)
)

# docs: begin
model = llm.get_model("nexttoken")
# docs: end

QUESTION = "What is the weather in Oslo?"


class Animal(BaseModel):
    """An animal."""

    kind: Literal["cat", "dog", "bird"]
    legs: Annotated[int, Field(ge=0, le=8)]
    tame: bool


def get_weather(city: Literal["Oslo", "Paris"]) -> str:
    """The weather in a city."""
    return f"clear in {city}"


def chat() -> Iterator[str]:
    answer = model.prompt(QUESTION, stream=False, max_tokens=24)
    assert isinstance(answer.text(), str)
    assert answer.usage().input > 0
    assert answer.usage().output > 0
    yield "an answer has text and counts"
    conversation = model.conversation()
    for _ in range(2):
        assert isinstance(conversation.prompt(QUESTION, max_tokens=8).text(), str)
    yield "a conversation has turns"
    command = [sys.executable, "-m", "llm", "prompt", "-m", "nexttoken", "--no-log", "-o", "max_tokens", "8", QUESTION]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    yield "the command line answers"


def stream() -> Iterator[str]:
    fields = {"temperature": 0, "max_tokens": 24}
    answer = model.prompt(QUESTION, **fields)
    chunks = list(answer)
    assert "".join(chunks) == model.prompt(QUESTION, stream=False, **fields).text()
    assert len(chunks) > 1
    assert answer.usage().output > 0
    yield "the chunks add up to the plain answer, with its counts"


def tools() -> Iterator[str]:
    for streams in (False, True):
        conversation = model.conversation(tools=[get_weather], chain_limit=2)
        chain = conversation.chain(QUESTION, stream=streams, options={"max_tokens": 100})
        # The model may call until it may no longer, or its call may be cut.
        with suppress(ValueError):
            assert isinstance(chain.text(), str)
    yield "the client's own tool loop comes to an end, streamed or not"


def structured() -> Iterator[str]:
    for streams in (False, True):
        Animal.model_validate(json.loads(model.prompt(QUESTION, schema=Animal, stream=streams).text()))
    yield "a pydantic model's schema is kept to, streamed or not"


check(chat, stream, tools, structured)
