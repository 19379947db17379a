"""Finding a checkpoint by directory or hub name, without a network."""

import pytest

from model.errors import ModelNotFound
from model.hub import resolve


@pytest.fixture(autouse=True)
def hub_is_unreachable(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))


def test_directory_is_found_as_it_is(tmp_path):
    assert resolve(str(tmp_path)) == tmp_path


def test_cached_snapshot_is_found_offline(tmp_path):
    commit = "0123456789abcdef0123456789abcdef01234567"
    snapshot = tmp_path / "cache" / "models--maker--tiny" / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(commit)
    assert resolve("maker/tiny").samefile(snapshot)
    assert resolve("maker/tiny", revision=commit).samefile(snapshot)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("maker/absent", "can't be reached"),
        ("not a name", "neither a directory here nor a name"),
        ("./absent", "no such directory"),
        ("/absent/model", "no such directory"),
        ("one/two/three", "no such directory"),
    ],
)
def test_what_is_not_there_is_refused_in_one_line(name, reason):
    with pytest.raises(ModelNotFound, match=reason) as error:
        resolve(name)
    assert "\n" not in str(error.value)


def test_file_is_refused(tmp_path):
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ModelNotFound, match="is a file"):
        resolve(str(tmp_path / "model.gguf"))


def test_revision_of_a_directory_is_refused(tmp_path):
    with pytest.raises(ModelNotFound, match="revision"):
        resolve(str(tmp_path), revision="main")
