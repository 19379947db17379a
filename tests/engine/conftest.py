"""What the tests of an engine over the real runner share."""

from pathlib import Path

import pytest

from tests.engine.generation import save_llama


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model's checkpoint."""
    directory = tmp_path_factory.mktemp("llama")
    save_llama(directory)
    return directory
