"""Writes docs/clients.md from the clients' checks, so that it shows what was tried."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "clients.md"

# What the page shows for the names that a check takes from its environment.
SHOWN = {"BASE_URL": "http://localhost:8000/v1", "MODEL": "nexttoken-tiny"}
LANGUAGES = {".py": "python", ".mjs": "javascript", ".yaml": "yaml"}

INTRODUCTION = """# Clients

Any client of OpenAI's API works once it is told where the server is. These are tried against a live server by
`make test-clients`, each in an environment of its own with the version below; the set-up shown is the one that was
tried. `none` stands for a key: clients want one, and the server takes any unless it was started with `--api-key`.

This page is written from `tests/clients` by `python -m tests.clients.run --docs`.
"""


def write() -> None:
    """Write the page anew."""
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(text())


def text() -> str:
    """The page."""
    folders = sorted(path.parent for path in HERE.glob("*/check.*"))
    rows = ["| client | version | tried |", "|---|---|---|", *map(_row, folders)]
    return "\n".join([INTRODUCTION, *rows, "", *map(_section, folders)])


def version(pins: Path) -> str:
    """The client's version, of its requirements.txt or package.json."""
    return _package(pins)[1]


def _row(folder: Path) -> str:
    check = _check(folder).read_text()
    features = re.findall(r"\w+", re.findall(r"^(?:await )?check\((.*)\)", check, re.MULTILINE)[-1])
    return f"| [{folder.name}](#{folder.name}) | {version(_pins(folder))} | {', '.join(features).replace('_', ' ')} |"


def _section(folder: Path) -> str:
    title = re.split(r'"""|// |\n', _check(folder).read_text())[1]
    blocks = "\n".join(_blocks(folder))
    return f"## {folder.name}\n\n{title}\n\n```bash\n{_install(_pins(folder))}\n```\n\n{blocks}"


def _blocks(folder: Path) -> Iterator[str]:
    """The marked parts of the client's files."""
    for path in sorted(folder.iterdir(), key=lambda path: (path.stem == "check", path.name)):
        if path.suffix in LANGUAGES:
            parts = re.findall(r"docs: begin\n(.*?)\n*^\S+ docs: end", path.read_text(), re.MULTILINE | re.DOTALL)
            code = "\n\n".join(parts)
            if not code:
                continue
            yield f"```{LANGUAGES[path.suffix]}\n{shown(code, path.suffix)}\n```\n"


def shown(code: str, suffix: str) -> str:
    """The code with values in place of the names."""
    for name, value in SHOWN.items():
        code = code.replace(f"{{{name}}}", value)
        code = re.sub(rf"\b{name}\b", value if suffix == ".yaml" else json.dumps(value), code)
    return re.sub(r'\bf("[^"{]*")', r"\1", code)


def _install(pins: Path) -> str:
    if pins.suffix == ".txt":
        (package,) = re.findall(r"^(.+)==", pins.read_text(), re.MULTILINE)
        return f"pip install '{package}'" if "[" in package else f"pip install {package}"
    return "npm install " + " ".join(json.loads(pins.read_text())["dependencies"])


def _package(pins: Path) -> tuple[str, str]:
    if pins.suffix == ".txt":
        name, _, number = pins.read_text().strip().partition("==")
        return name, number
    return next(iter(json.loads(pins.read_text())["dependencies"].items()))


def _check(folder: Path) -> Path:
    (path,) = folder.glob("check.*")
    return path


def _pins(folder: Path) -> Path:
    (path,) = (path for path in (folder / "requirements.txt", folder / "package.json") if path.exists())
    return path
