"""`metadata`: what clients attach to what is stored."""

from typing import Annotated

from pydantic import Field

MAX_PAIRS = 16
MAX_KEY_CHARS = 64
MAX_VALUE_CHARS = 512

# SQLite's JSON functions read a string up to its first NUL.
_NO_NUL = r"^[^\x00]*$"
_Key = Annotated[str, Field(max_length=MAX_KEY_CHARS, pattern=_NO_NUL)]
_Value = Annotated[str, Field(max_length=MAX_VALUE_CHARS, pattern=_NO_NUL)]
Metadata = Annotated[dict[_Key, _Value], Field(max_length=MAX_PAIRS)]
