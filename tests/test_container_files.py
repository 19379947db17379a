"""Dockerfile, docker-compose.yml and .dockerignore: what they promise, as far as it can be told without building."""

import asyncio
import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from server.http_server import FLUSH_TIMEOUT_S
from server.settings import Settings, variable
from tests.api.serving import listening, serve

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = (ROOT / "docker-compose.yml").read_text()


def instructions(keyword: str) -> list[str]:
    """The arguments of all the Dockerfile's instructions of one kind, comments out and lines joined."""
    lines = "\n".join(line for line in DOCKERFILE.splitlines() if not line.lstrip().startswith("#"))
    joined = lines.replace("\\\n", "").splitlines()
    return [line.removeprefix(keyword).strip() for line in joined if line.startswith(f"{keyword} ")]


def image_environment() -> dict[str, str]:
    """The environment of the last stage, which is the image's."""
    return dict(pair.split("=", 1) for pair in shlex.split(instructions("ENV")[-1]))


def services() -> dict[str, dict[str, Any]]:
    content: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE)["services"]
    return content


def duration_s(text: str) -> int:
    return int(text.removesuffix("s"))


@pytest.mark.parametrize("path", ["Dockerfile", "docker-compose.yml", "deploy/README.md"])
def test_every_variable_is_a_setting(path: str) -> None:
    named = set(re.findall(r"NEXTTOKEN_[A-Z_]*[A-Z]", (ROOT / path).read_text()))
    assert named
    assert named <= {variable(name) for name in Settings.model_fields}


def test_the_image_listens_on_the_port_it_exposes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in image_environment().items():
        if name.startswith("NEXTTOKEN_"):
            monkeypatch.setenv(name, value)
    settings = Settings()
    assert settings.host == "0.0.0.0"
    assert [str(settings.port)] == instructions("EXPOSE")


@pytest.mark.parametrize(("phase", "code"), [("ready", 0), ("starting", 0), ("draining", 0), ("dead", 1)])
def test_the_health_check_tells_a_live_server_from_a_dead_one(phase: Any, code: int) -> None:
    served = serve(api_key=("a key that the check does not have",))
    served.engine.phase = phase

    async def check() -> int:
        async with listening(served.app) as url:
            return await health_check(port=url.rsplit(":", 1)[1])

    assert asyncio.run(check()) == code


def test_the_health_check_fails_where_nobody_listens() -> None:
    assert asyncio.run(health_check(port="1")) != 0


async def health_check(port: str) -> int:
    """The exit code of the image's own check, run by this interpreter."""
    (check,) = instructions("HEALTHCHECK")
    program, *arguments = json.loads(check[check.index("[") :])
    assert program == "python"
    # A proxy of the operator's must not be asked.
    environment = {variable("port"): port, "http_proxy": "http://127.0.0.1:9"}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, env=environment, stderr=asyncio.subprocess.DEVNULL
    )
    return await process.wait()


def test_signals_and_arguments_reach_the_server() -> None:
    (entry,) = instructions("ENTRYPOINT")
    assert json.loads(entry) == ["nexttoken", "serve"]  # as a list: no shell in between
    assert not instructions("CMD")


def test_the_image_runs_as_a_user_that_is_not_root() -> None:
    # A number, since Kubernetes' runAsNonRoot can't tell what a name stands for.
    user, group = instructions("USER")[-1].split(":")
    assert int(user) > 0
    assert int(group) > 0


def test_base_images_name_a_minor_version() -> None:
    default = next(line.split("=", 1)[1] for line in instructions("ARG") if line.startswith("BASE="))
    assert re.search(r":\d+\.\d+", default)
    stages = {line.split(" AS ")[1] for line in instructions("FROM") if " AS " in line}
    assert {line.split(" AS ")[0] for line in instructions("FROM")} <= {"${BASE}"} | stages


def test_no_package_is_sought_in_two_indexes_at_once() -> None:
    assert "--extra-index-url" not in DOCKERFILE
    from_torch_index = [line for line in instructions("RUN") if "TORCH_INDEX" in line]
    assert len(from_torch_index) == 1
    assert from_torch_index[0].endswith(" torch")
    assert "--no-deps" in from_torch_index[0]


def test_dependencies_are_installed_before_our_code_is_copied() -> None:
    assert DOCKERFILE.index("-r requirements.txt") < DOCKERFILE.index("COPY server")


def test_the_build_context_holds_what_is_copied_and_nothing_else() -> None:
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert rules[0] == "*"  # .git, .venv, tests, .env and whatever else lies there
    let_in = {rule.removeprefix("!") for rule in rules if rule.startswith("!")}
    from_context = [line for line in instructions("COPY") if "--from=" not in line]
    assert let_in == {source for line in from_context for source in line.split()[:-1]}


@pytest.mark.parametrize("name", ["nexttoken", "nexttoken-gpu"])
def test_compose_confines_the_service(name: str) -> None:
    service = services()[name]
    assert service["read_only"]
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert all("127.0.0.1" in port for port in service["ports"])  # no key by default, so nobody else
    assert "models:/models" in service["volumes"]


@pytest.mark.parametrize("name", ["nexttoken", "nexttoken-gpu"])
def test_compose_waits_until_a_drain_is_over(name: str) -> None:
    drain_timeout_s = Settings.model_fields["drain_timeout_s"].default
    assert duration_s(services()[name]["stop_grace_period"]) > drain_timeout_s + FLUSH_TIMEOUT_S


def test_compose_reserves_gpus_for_the_gpu_service_alone() -> None:
    gpu = services()["nexttoken-gpu"]
    (device,) = gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["driver"] == "nvidia"
    assert device["capabilities"] == ["gpu"]
    assert gpu["profiles"] == ["gpu"]
    assert "TORCH_INDEX" in gpu["build"]["args"]
    assert "deploy" not in services()["nexttoken"]
