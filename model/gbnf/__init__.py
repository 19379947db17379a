"""llama.cpp's grammar notation (GBNF), rewritten as a Lark grammar of the same texts."""

from model.gbnf.lark import as_lark, lark_from_gbnf
from model.gbnf.syntax import GbnfError

__all__ = ["GbnfError", "as_lark", "lark_from_gbnf"]
