from collections.abc import Iterator

import pytest

from tests.e2e.server_process import ServerProcess, running_server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The bundled model behind a real server, shared by the tests of a file."""
    with running_server(tmp_path_factory.mktemp("server"), "--dtype", "float32") as running:
        yield running


@pytest.fixture(scope="session")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The bundled model, taken for one that thinks between tags."""
    folder = tmp_path_factory.mktemp("thinker")
    with running_server(folder, "--dtype", "float32", "--reasoning-parser", "think") as running:
        yield running
