"""Model directories for the text tests, each made once."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from server.text.tokenizer import Tokenizer
from tests.text import tokenizer_kinds

os.environ["HF_HUB_OFFLINE"] = "1"


@pytest.fixture(scope="session")
def directory_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a tokenizer by its kind's name."""
    root = tmp_path_factory.mktemp("tokenizers")

    def find(kind: str) -> Path:
        directory = root / kind
        return directory if directory.exists() else getattr(tokenizer_kinds, kind)(directory)

    return find


@pytest.fixture(scope="session", params=[kind.__name__ for kind in tokenizer_kinds.BYTE_KINDS])
def directory(request: pytest.FixtureRequest, directory_of: Callable[[str], Path]) -> Path:
    """The directory of each kind of tokenizer that the Llama family uses, in turn."""
    return directory_of(request.param)


@pytest.fixture(scope="session")
def tokenizer(directory: Path) -> Tokenizer:
    return Tokenizer.load(directory)


@pytest.fixture(scope="session")
def stories260k() -> Path:
    root = Path(__file__).parents[2]
    models = Path(os.environ.get("NEXTTOKEN_TEST_MODELS", root.parent / "shared" / "models"))
    if not (models / "stories260K").is_dir():
        pytest.skip("stories260K is not here")
    return models / "stories260K"
