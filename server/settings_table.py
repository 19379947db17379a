"""The table of all settings in the README, made from the settings themselves.

python -m server.settings_table README.md
"""

import sys
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic import ByteSize
from pydantic.fields import FieldInfo

from server.settings import Settings, value_kind, variable

BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"


def settings_table() -> str:
    """Markdown: flag, variable, default and meaning of every setting."""
    rows = ["| flag | variable | default | meaning |", "|---|---|---|---|"]
    for name, field in Settings.model_fields.items():
        flag = "MODEL" if name == "model" else "--" + name.replace("_", "-")
        rows.append(f"| `{flag}` | `{variable(name)}` | {_default(field)} | {_meaning(field)} |")
    return "\n".join(rows)


def with_table(text: str) -> str:
    """The text with the table between its two markers brought up to date."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n{settings_table()}\n{END}{after}"


def _default(field: FieldInfo) -> str:
    if field.default in (None, (), ""):
        return ""
    if value_kind(field) is ByteSize:
        return f"`{ByteSize(field.default).human_readable(separator='')}`"
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def _meaning(field: FieldInfo) -> str:
    kind = value_kind(field)
    choices = f" ({', '.join(map(str, get_args(kind)))})" if get_origin(kind) is Literal else ""
    return (field.description or "") + choices


if __name__ == "__main__":
    readme = Path(sys.argv[1])
    readme.write_text(with_table(readme.read_text()))
