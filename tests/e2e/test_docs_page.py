"""The page at /docs, read as a browser without a network reads it."""

import html
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from server.api.docs_page import docs_page
from tests.e2e.server_process import ServerProcess

CHROMIUM = shutil.which("chromium")


class Page(HTMLParser):
    """Collects what matters here of a page, and fails on what is not well nested."""

    VOID = frozenset(("meta", "link", "br", "img"))

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert not self._open

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self._open.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src"):
                self.links.append(value or "")
            assert not name.startswith("on")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_needs_nothing_from_anywhere_else_and_runs_nothing(server: ServerProcess) -> None:
    answer = server.get("/docs")
    page = Page(answer.text)
    assert answer.headers["content-security-policy"] == "default-src 'none'; style-src 'unsafe-inline'"
    assert not page.tags & {"script", "link", "img", "iframe", "object"}
    assert "url(" not in answer.text
    assert "@import" not in answer.text
    assert {link for link in page.links if not link.startswith("#")} == {"openapi.json"}


def test_every_link_of_the_page_leads_somewhere(server: ServerProcess) -> None:
    page = Page(server.get("/docs").text)
    assert len(page.ids) == len(set(page.ids))
    assert {link.removeprefix("#") for link in page.links if link.startswith("#")} <= set(page.ids)


def test_the_page_names_every_endpoint_and_every_field_with_its_meaning(server: ServerProcess) -> None:
    document = server.get("/openapi.json").json()
    text = Page(server.get("/docs").text).text
    for path in document["paths"]:
        assert path in text
    for name, schema in document["components"]["schemas"].items():
        for field, value in schema.get("properties", {}).items():
            assert field in text
            if name.endswith("Request"):
                assert value.get("description"), f"{name}.{field} has no description"
                assert value["description"].replace("`", "") in text


def test_the_examples_of_the_page_work(server: ServerProcess) -> None:
    commands = [html.unescape(found) for found in re.findall(r"<pre>(.*?)</pre>", server.get("/docs").text, re.DOTALL)]
    # Who tries the others puts in the id of something that is there.
    complete = [command for command in commands if "/{" not in command]
    assert (len(commands), len(complete)) == (5, 4)
    for command in complete:
        assert server.url in command
        done = subprocess.run(["bash", "-c", command + " -sS --fail"], capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_answers_fit_the_schemas_of_the_document(server: ServerProcess) -> None:
    document = server.get("/openapi.json").json()

    def check(path: str, method: str, status: str, content: object) -> None:
        schema = document["paths"][path][method]["responses"][status]["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, "components": document["components"]}).validate(content)

    for path, operations in document["paths"].items():
        if "post" in operations and "{" not in path:
            body = operations["post"]["requestBody"]["content"]["application/json"]["example"] | {"max_tokens": 2}
            check(path, "post", "200", server.post(path, {**body, "stream": False}).json())
            check(path, "post", "4XX", server.post(path, {"model": 1}).json())
    for path in ("/health", "/ready", "/version", "/v1/models"):
        check(path, "get", "200", server.get(path).json())
    check("/v1/models/{model_id}", "get", "200", server.get("/v1/models/nexttoken-tiny").json())


def test_text_of_the_document_stays_text_on_the_page() -> None:
    evil = "<script>alert(1)</script>'\"&`</code>`"
    schema = {"properties": {evil: {"enum": [evil], "description": evil, "default": evil}}, "description": evil}
    media = {"application/json": {"schema": {"$ref": "#/components/schemas/A"}, "example": {evil: evil}}}
    operation = {"description": evil, "requestBody": {"content": media}, "responses": {"200": {"content": media}}}
    document = {
        "info": {"title": evil, "version": evil},
        "paths": {f"/{evil}": {"post": operation}},
        "components": {"schemas": {"A": schema, evil: schema}},
    }
    page = Page(docs_page(document, f"http://{evil}"))
    assert "script" not in page.tags
    assert page.text.count("<script>alert(1)</script>") > 10


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_browser_shows_the_page_and_has_nothing_to_complain_about(server: ServerProcess, tmp_path: Path) -> None:
    assert CHROMIUM is not None
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    command = [CHROMIUM, *options.split(), "--disable-component-update", "--disable-sync", "--enable-logging=stderr"]
    command += [f"--user-data-dir={tmp_path}", "--dump-dom", server.url + "/docs"]
    shown = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    assert "CONSOLE" not in shown.stderr, "a style or a link was blocked"
    assert Page(shown.stdout).ids == Page(server.get("/docs").text).ids
