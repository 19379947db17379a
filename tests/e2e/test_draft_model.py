"""`--draft-model` over HTTP: the same texts, and one line for a model that can't guess for the served one."""

import json
import shutil
from pathlib import Path

import pytest

import model.demo
from tests.e2e.server_process import ServerProcess, running_server

BUNDLED = Path(model.demo.__path__[0]) / "bundled"
STORY = {"prompt": "Once upon a time", "max_tokens": 60, "temperature": 0.8, "seed": 5, "n": 2}


def test_texts_are_those_without_a_draft_model(server: ServerProcess, tmp_path: Path) -> None:
    with running_server(tmp_path, "--dtype", "float32", "--draft-model", str(BUNDLED)) as drafted:
        texts = [
            [choice["text"] for choice in one.post("/v1/completions", STORY).json()["choices"]]
            for one in (server, drafted)
        ]
        assert texts[0] == texts[1]
        assert "drafts    by LlamaForCausalLM" in drafted.log.read_text()


@pytest.mark.parametrize("flag", ["--speculation", "--no-speculation"])
def test_other_tokens_are_refused_in_one_line_even_if_no_guesses_are_made(tmp_path: Path, flag: str) -> None:
    other = tmp_path / "other"
    shutil.copytree(BUNDLED, other)
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    ids = tokenizer["model"]["vocab"]
    ids["A"], ids["B"] = ids["B"], ids["A"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with running_server(tmp_path, "--draft-model", str(other), flag, wait=False) as refused:
        assert refused.process.wait(timeout=60) == 2
        (line,) = refused.log.read_text().splitlines()
        assert f"--draft-model {other} has other tokens than the model: the id of 'A' is {ids['A']} there" in line
