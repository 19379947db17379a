"""A model's text side, loaded and joined to the engine that runs it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from model.errors import UnsupportedModel
from server.engine.interface import StartableEngine
from server.pace import Pace
from server.served import ServedModel
from server.settings import Settings
from server.text.dialect import dialect_of
from server.text.template import ChatTemplate, TemplateError
from server.text.tokenizer import Tokenizer, TokenizerError

if TYPE_CHECKING:
    from fastapi import FastAPI


def load_served(
    settings: Settings,
    directory: Path,
    draft_directory: Path | None,
    engine: StartableEngine,
    *,
    created: int,
    pace: Pace | None = None,
) -> ServedModel:
    """The model in a directory, served by this engine since the Unix time `created`. Raises UnsupportedModel."""
    try:
        tokenizer = Tokenizer.load(directory)
        template = ChatTemplate.load(directory, tokenizer.special_tokens, tokenizer.control_tokens)
        difference = None if draft_directory is None else tokenizer.difference(Tokenizer.load(draft_directory))
    except (TokenizerError, TemplateError) as error:
        raise UnsupportedModel(str(error)) from error
    if difference is not None:
        raise UnsupportedModel(f"--draft-model {draft_directory} has other tokens than the model: {difference}")
    return ServedModel(
        names=settings.served_model_name or (settings.model,),
        tokenizer=tokenizer,
        template=template,
        engine=engine,
        created=created,
        dialect=dialect_of(template, settings.tool_call_parser, settings.reasoning_parser),
        pace=pace or Pace(),
    )


def lifespan_of(
    engine: StartableEngine, served_model: ServedModel
) -> "Callable[[FastAPI], AbstractAsyncContextManager[None]]":
    """The application's: the engine runs as long as it does."""

    @asynccontextmanager
    async def lifespan(app: "FastAPI") -> AsyncIterator[None]:
        await engine.start(served_model.vocabulary)
        yield
        await engine.stop()

    return lifespan
