"""Instructor, which fills pydantic models."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from claims import BASE_URL, MODEL, check
from pydantic import BaseModel, Field

# isort: split
# docs: begin
import instructor
from openai import OpenAI

client = instructor.from_openai(OpenAI(base_url=BASE_URL, api_key="none"))
# docs: end

MESSAGES: Any = [{"role": "user", "content": "Which animal is it?"}]


class Animal(BaseModel):
    """An animal."""

    kind: Literal["cat", "dog", "bird"]
    legs: Annotated[int, Field(ge=0, le=8)]
    tame: bool


class Zoo(BaseModel):
    """Animals in a list of bounded length."""

    animals: Annotated[list[Animal], Field(min_length=1, max_length=3)]


def ask(mode: instructor.Mode, **fields: Any) -> Any:
    patched = instructor.from_openai(OpenAI(base_url=BASE_URL, api_key="none"), mode=mode)
    return patched.chat.completions.create(model=MODEL, messages=MESSAGES, max_retries=0, **fields)


def chat() -> Iterator[str]:
    text = client.chat.completions.create(model=MODEL, messages=MESSAGES, max_tokens=16, response_model=None)
    assert isinstance(text.choices[0].message.content, str)
    yield "without a response model it is a plain answer"


def stream() -> Iterator[str]:
    partials = list(client.chat.completions.create_partial(model=MODEL, messages=MESSAGES, response_model=Animal))
    assert len(partials) > 1
    Animal.model_validate(partials[-1].model_dump())
    yield "a partial model fills up while it is streamed"


def tools() -> Iterator[str]:
    animal, raw = client.chat.completions.create_with_completion(
        model=MODEL, messages=MESSAGES, response_model=Animal, max_retries=0
    )
    assert isinstance(animal, Animal)
    assert raw.choices[0].message.tool_calls
    for mode in (instructor.Mode.TOOLS, instructor.Mode.TOOLS_STRICT):
        assert isinstance(ask(mode, response_model=Zoo), Zoo)
    yield "a model is filled by a tool call, strict or not"


def structured() -> Iterator[str]:
    assert isinstance(ask(instructor.Mode.JSON_SCHEMA, response_model=Zoo), Zoo)
    yield "a model is filled by its JSON schema"


check(chat, stream, tools, structured)
