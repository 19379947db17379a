"""Flags, variables and files: where a setting comes from, and what is said of a bad one."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from pydantic import ValidationError

from server import command_line
from server.command import suggestion
from server.engine.messages import WorkerConfig
from server.serve import worker_config
from server.settings import Settings, read_settings, unknown_variables, variable
from server.settings_table import settings_table, with_table

README = Path(__file__).parent.parent / "README.md"


def run_cli(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "server.cli", *arguments], capture_output=True, text=True, timeout=30)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(variable(name), raising=False)


def test_a_flag_goes_before_a_variable_before_a_file_before_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("port: 1\nmax-num-seqs: 1\nmax_waiting: 1\n")
    monkeypatch.setenv("NEXTTOKEN_PORT", "2")
    monkeypatch.setenv("NEXTTOKEN_MAX_NUM_SEQS", "2")
    settings = read_settings({"port": "3"}, file)
    assert (settings.port, settings.max_num_seqs, settings.max_waiting, settings.max_choices) == (3, 2, 1, 128)


@pytest.mark.parametrize(
    ("name", "text"), [("s.yaml", "api_key: [a, b]"), ("s.toml", 'api_key = ["a", "b"]'), ("s.yml", 'api-key: "a,b"')]
)
def test_files_are_yaml_or_toml(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_settings({}, tmp_path / name).api_key == ("a", "b")


def test_a_variable_may_hold_several_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTTOKEN_API_KEY", "first, second")
    assert read_settings({}).api_key == ("first", "second")


def test_an_empty_variable_counts_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTTOKEN_PORT", "")
    monkeypatch.setenv("NEXTTOKEN_MAX_MODEL_LEN", "")
    assert (read_settings({}).port, read_settings({}).max_model_len) == (8000, None)


def test_sizes_may_have_units() -> None:
    assert read_settings({"kv_cache_memory_bytes": "1.5GiB"}).kv_cache_memory_bytes == 3 << 29


def test_one_of_several_numbers_is_read_from_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTTOKEN_BLOCK_SIZE", "64")
    assert read_settings({}).block_size == 64
    assert read_settings({"block_size": "32"}).block_size == 32


@pytest.mark.parametrize(
    "values", [{"block_size": "17"}, {"port": "x"}, {"port": "70000"}, {"max_num_seqs": "0"}, {"prot": 1}]
)
def test_a_value_out_of_range_or_an_unknown_name_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        read_settings(values)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "--port", "x"], "--port"),
        (["serve", "--no-such-flag"], "unknown --no-such-flag"),
        (["serve", "--maxmodel-len", "5"], "did you mean --max-model-len?"),
        (["serve", "--max-num-batched-tokens", "64"], "less than --max-num-seqs 256"),
        (["serve", "--config", "missing.yaml"], "missing.yaml"),
        (["serve", "--gpu-memory-utilization", "2"], "--gpu-memory-utilization"),
        ([], "COMMAND"),
    ],
)
def test_wrong_usage_names_the_flag_and_exits_with_2(arguments: list[str], message: str) -> None:
    result = run_cli(*arguments)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_name_in_a_file_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("prot: 1")
    result = run_cli("serve", "--config", str(tmp_path / "s.yaml"))
    assert result.returncode == 2
    assert result.stderr.splitlines() == [
        f"nexttoken serve: {tmp_path / 's.yaml'}: unknown setting prot, did you mean port?"
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("port: x", "FILE: port: Input should be a valid integer"),
        (
            "port: [1",
            "FILE is neither YAML nor (as *.toml) TOML: expected ',' or ']', but got '<stream end>' (line 1, ",
        ),
        ("port: \x01", "FILE is neither YAML nor"),
        ("port: \xff", "FILE is neither YAML nor"),
    ],
)
def test_what_is_wrong_in_a_file_is_one_line_with_its_name(
    tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "s.yaml"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(SystemExit):
        command_line.main(["serve", "--config", str(file)])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("nexttoken serve: " + message.replace("FILE", str(file)))


def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NEXTTOKEN_PORT", "x")
    with pytest.raises(SystemExit):
        command_line.main(["serve"])
    assert capsys.readouterr().err.startswith("nexttoken serve: NEXTTOKEN_PORT: ")


def test_a_size_that_is_none_is_refused_with_one_that_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command_line.main(["serve", "--kv-cache-memory-bytes", "4XiB"])
    assert capsys.readouterr().err.endswith(", as in 4GiB\n")


def test_an_unknown_name_is_likened_to_what_differs_behind_the_prefix() -> None:
    assert suggestion("NEXTTOKEN_PROT", ["PORT", "HOST"], "NEXTTOKEN_") == ", did you mean NEXTTOKEN_PORT?"
    assert suggestion("NEXTTOKEN_FREE", ["PORT", "HOST"], "NEXTTOKEN_") == ""


def test_variables_that_look_like_settings_and_are_none_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXTTOKEN_PROT", "1")
    monkeypatch.setenv("NEXTTOKEN_HOST", "127.0.0.1")
    assert "NEXTTOKEN_PROT" in unknown_variables()
    assert "NEXTTOKEN_HOST" not in unknown_variables()


def test_a_worker_is_told_of_every_setting_that_concerns_it() -> None:
    settings = read_settings(
        {
            "kv_cache_memory_bytes": "64MiB",
            "max_model_len": "64",
            "max_num_batched_tokens": "512",
            "num_threads": "1",
            "quantization": "int8",
            "kv_cache_dtype": "fp8",
            "enable_prefix_caching": "false",
            "speculation": "false",
        }
    )
    config = msgspec.json.decode(msgspec.json.encode(worker_config(settings, Path("/m"))), type=WorkerConfig)
    assert config.runner.kv_cache_bytes == 64 << 20
    assert (config.runner.max_model_len, config.runner.max_step_tokens, config.runner.num_threads) == (64, 512, 1)
    assert config.runner.kv_cache_dtype == "fp8"
    assert (config.runner.quantization, config.prefix_caching, config.speculation) == ("int8", False, False)
    drafts = [worker_config(read_settings({"speculation": on}), Path("/m"), Path("/d")).runner for on in ("1", "0")]
    assert [runner.draft_model_dir for runner in drafts] == ["/d", None], "what makes no guesses is not loaded"


def test_every_setting_is_a_flag_with_its_help() -> None:
    text = run_cli("serve", "--help").stdout
    for name in Settings.model_fields:
        assert ("MODEL" if name == "model" else "--" + name.replace("_", "-")) in text


def test_the_model_can_be_given_by_place_or_by_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Settings] = []
    monkeypatch.setattr("server.serve.serve", lambda settings: seen.append(settings) or 0)
    for arguments in (["serve", "some/model"], ["serve", "--model", "some/model"], ["serve"]):
        with pytest.raises(SystemExit):
            command_line.main(arguments)
    assert [settings.model for settings in seen] == ["some/model", "some/model", "nexttoken-tiny"]


def test_the_readme_lists_the_settings_as_they_are() -> None:
    assert with_table(README.read_text()) == README.read_text(), "run: python -m server.settings_table README.md"
    assert len(settings_table().splitlines()) == len(Settings.model_fields) + 2


def test_st07_idle_connections_outlive_a_proxys_pool() -> None:
    assert Settings().keep_alive_s >= 75
