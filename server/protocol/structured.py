"""The request fields that say what form the answer's text must have."""

import json
from collections.abc import Mapping
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, JsonValue, PrivateAttr

from model.exact_schema import find_gaps
from model.gbnf import GbnfError, as_lark
from model.grammar import Grammar
from server.errors import InvalidRequest
from server.protocol.closed_schema import closed
from server.protocol.wire import Refusal, WireModel

# What one grammar may be; more takes seconds to compile.
MAX_GRAMMAR_CHARS = 256 * 1024
# Read by Python code, which takes a hundred times as long as the library.
MAX_EBNF_CHARS = 32 * 1024
MAX_SCHEMA_DEPTH = 64
MAX_SCHEMA_REFS = 1000
# Warnings of one schema.
MAX_GAPS = 8

SchemaName = Annotated[str, Field(max_length=64)]
JsonSchema = dict[str, JsonValue] | bool
Regex = Annotated[str, Field(max_length=MAX_GRAMMAR_CHARS)]
Ebnf = Annotated[str, Field(max_length=MAX_EBNF_CHARS)]
Choices = Annotated[list[Annotated[str, Field(max_length=4096)]], Field(min_length=1, max_length=10_000)]

_ANY_OBJECT = Grammar("json_schema", '{"type": "object"}')
_WHITESPACE = Refusal("where JSON allows whitespace, a space or a line break with indentation may stand")


class Form(NamedTuple):
    """What the text must match, and the field that says so."""

    param: str
    grammar: Grammar
    warnings: tuple[str, ...] = ()
    """About what the grammar does not enforce."""


class JsonSchemaFormat(WireModel):
    """`response_format.json_schema`."""

    name: SchemaName
    """For your own use."""
    description: str | None = None
    """For your own use: the model is not told of it."""
    schema_: JsonSchema = Field({}, alias="schema")
    """The schema, of JSON Schema 2020-12. Where it lists an object's properties, or patterns of them, there are no
    others, unless it says so (`additionalProperties`)."""
    strict: bool = False
    """Refuse a schema with keywords that can't be enforced, instead of leaving them out with a warning."""


class ResponseFormat(WireModel):
    """`response_format`."""

    type: Literal["text", "json_object", "json_schema"]
    """Any text, any JSON object, or JSON of a schema."""
    json_schema: JsonSchemaFormat | None = None
    """The schema, for the type `json_schema`."""
    schema_: JsonSchema | None = Field(None, alias="schema")
    """llama.cpp's place for the schema, of the type `json_object` too; all of it is enforced or refused."""

    def form(self) -> Form | None:
        """None for plain text."""
        if self.schema_ is not None:
            if self.json_schema is not None or self.type == "text":
                raise InvalidRequest(
                    "schema belongs to the types json_object and json_schema, without json_schema",
                    param="response_format.schema",
                )
            return schema_form(self.schema_, "response_format.schema")
        if (self.json_schema is not None) != (self.type == "json_schema"):
            is_missing = self.json_schema is None
            reason = f"json_schema {'is missing' if is_missing else 'belongs to the type json_schema'}"
            raise InvalidRequest(reason, param="response_format.json_schema")
        if self.json_schema is not None:
            param = "response_format.json_schema.schema"
            return schema_form(self.json_schema.schema_, param, is_lenient=not self.json_schema.strict)
        return Form("response_format", _ANY_OBJECT) if self.type == "json_object" else None


class StructuredOutputs(WireModel):
    """`structured_outputs`, as vLLM's clients write it: exactly one of its fields."""

    refused: ClassVar[Mapping[str, Refusal]] = {
        "disable_any_whitespace": Refusal(_WHITESPACE.reason, (False,)),
        "disable_additional_properties": Refusal("write additionalProperties: false into the schema", (False,)),
        "whitespace_pattern": _WHITESPACE,
        "structural_tag": Refusal("write it as a grammar"),
    }

    json_: JsonSchema | str | None = Field(None, alias="json")
    """A JSON schema, all of which is enforced or refused."""
    regex: Regex | None = None
    """A regular expression for the whole text, without look-around."""
    choice: Choices | None = None
    """The texts to choose from."""
    grammar: Ebnf | None = None
    """A grammar in Lark's notation, or in llama.cpp's GBNF."""
    json_object: bool = False
    """Any JSON object."""


class StructuredFields(WireModel):
    """What completions and chat share."""

    response_format: ResponseFormat | None = None
    """What form the text must have."""
    structured_outputs: StructuredOutputs | None = None
    """What form the text must have, of more kinds than `response_format` knows."""
    guided_json: JsonSchema | str | None = None
    """An older name of `structured_outputs.json`."""
    guided_regex: Regex | None = None
    """An older name of `structured_outputs.regex`."""
    guided_choice: Choices | None = None
    """An older name of `structured_outputs.choice`."""
    guided_grammar: Ebnf | None = None
    """An older name of `structured_outputs.grammar`."""
    grammar: Ebnf | None = None
    """llama.cpp's name of `structured_outputs.grammar`."""
    json_schema: JsonSchema | str | None = None
    """llama.cpp's name of `structured_outputs.json`."""

    _form: Form | None = PrivateAttr(None)

    def model_post_init(self, context: Any) -> None:
        """Find the form, while the body is read: a large one is read in a thread.

        Raises InvalidRequest when two fields name one, or when one is too large.
        """
        self._form = self._find_form()

    def form(self) -> Form | None:
        """What the text must match."""
        return self._form

    def _find_form(self) -> Form | None:
        forms = self._forms()
        if self.structured_outputs is not None and not any(form.param.startswith("structured") for form in forms):
            raise InvalidRequest("give one of json, regex, choice, grammar, json_object", param="structured_outputs")
        if len(forms) > 1:
            raise InvalidRequest(f"not together with {forms[0].param}", param=forms[1].param)
        return forms[0] if forms else None

    def _forms(self) -> list[Form]:
        wanted = None if self.response_format is None else self.response_format.form()
        forms = [] if wanted is None else [wanted]
        forms += _forms("guided_", self.guided_json, self.guided_regex, self.guided_choice, self.guided_grammar)
        if self.grammar is not None:
            forms.append(Form("grammar", _grammar(self.grammar, "grammar")))
        if self.json_schema is not None:
            forms.append(schema_form(self.json_schema, "json_schema"))
        if (outputs := self.structured_outputs) is not None:
            prefix = "structured_outputs."
            forms += _forms(prefix, outputs.json_, outputs.regex, outputs.choice, outputs.grammar)
            if outputs.json_object:
                forms.append(Form(f"{prefix}json_object", _ANY_OBJECT))
        return forms


def _forms(
    prefix: str, schema: JsonSchema | str | None, regex: str | None, choices: list[str] | None, grammar: str | None
) -> list[Form]:
    forms = []
    if schema is not None:
        forms.append(schema_form(schema, f"{prefix}json"))
    if regex is not None:
        forms.append(Form(f"{prefix}regex", Grammar("regex", regex)))
    if choices is not None:
        forms.append(Form(f"{prefix}choice", Grammar("regex", _one_of(choices, f"{prefix}choice"))))
    if grammar is not None:
        forms.append(Form(f"{prefix}grammar", _grammar(grammar, f"{prefix}grammar")))
    return forms


def _grammar(text: str, param: str) -> Grammar:
    """Raises InvalidRequest for GBNF that can't be read; Lark's notation is read when it's compiled."""
    try:
        return Grammar("lark", as_lark(text))
    except GbnfError as error:
        raise InvalidRequest(str(error), param=param) from None


def schema_form(schema: JsonSchema | str, param: str, *, is_lenient: bool = False) -> Form:
    """What a JSON schema, `closed`, asks for.

    Raises InvalidRequest for one that is too large or too deep; unless `is_lenient`, for one that can't be enforced.
    """
    if isinstance(schema, str):
        try:
            schema = json.loads(schema)
        except (ValueError, RecursionError):
            raise InvalidRequest("the schema is not JSON", param=param) from None
    _check_extent(schema, param)
    schema = closed(schema)
    text = json.dumps(schema, separators=(",", ":"))
    if len(text) > MAX_GRAMMAR_CHARS:
        raise _too_large(param)
    gaps = tuple(islice(find_gaps(schema), MAX_GAPS))
    if gaps and not is_lenient:
        raise InvalidRequest(gaps[0], param=param)
    return Form(param, Grammar("json_schema", text, is_lenient), gaps)


def _check_extent(schema: Any, param: str) -> None:
    """Raise InvalidRequest for what a compiler that descends might not survive, and for what is surely too large.

    That is told here, in steps between which other threads run: writing the schema out would hold them all up.
    """
    num_refs, num_characters, level = 0, 0, [schema]
    for depth in range(MAX_SCHEMA_DEPTH + 1):
        num_refs += sum(1 for value in level if isinstance(value, dict) and "$ref" in value)
        num_characters += sum(map(_least_length, level))
        level = [inner for value in level for inner in _inside(value)]
        if num_characters > MAX_GRAMMAR_CHARS:
            raise _too_large(param)
        if not level:
            break
        if depth == MAX_SCHEMA_DEPTH:
            raise InvalidRequest(f"the schema is nested more than {MAX_SCHEMA_DEPTH} levels deep", param=param)
    if num_refs > MAX_SCHEMA_REFS:
        raise InvalidRequest(f"the schema has more than {MAX_SCHEMA_REFS} $ref", param=param)


def _too_large(param: str) -> InvalidRequest:
    return InvalidRequest(f"the schema has more than {MAX_GRAMMAR_CHARS} characters", param=param)


def _least_length(value: Any) -> int:
    """Characters that a value takes at least in JSON, without those of the values inside."""
    if isinstance(value, str):
        return len(value) + 2
    return sum(len(key) + 4 for key in value) if isinstance(value, dict) else 1


def _inside(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def _one_of(choices: list[str], param: str) -> str:
    """A regular expression for exactly these texts."""
    if sum(map(len, choices)) > MAX_GRAMMAR_CHARS // 8:
        raise InvalidRequest(f"the choices have more than {MAX_GRAMMAR_CHARS // 8} characters", param=param)
    return "|".join("".join(map(_literal, choice)) for choice in choices)


def _literal(character: str) -> str:
    return character if character.isascii() and character.isalnum() else f"\\x{{{ord(character):X}}}"
