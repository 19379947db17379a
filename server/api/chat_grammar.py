"""The grammar of a chat's answer, from its tools, the form it asks for and the thoughts that may come first."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from model.grammar import Grammar, json_term
from server.api.grammars import GrammarDoor
from server.api.keyword_grammar import keyword_term
from server.errors import InvalidRequest
from server.protocol.structured import MAX_GRAMMAR_CHARS, Form, schema_form
from server.protocol.tools import ToolUse
from server.served import ServedModel
from server.text.answer_grammar import AnswerRules, answer_grammar
from server.text.channels import ChannelPlan
from server.text.tool_formats.format import ToolFormat
from server.text.tool_formats.registry import LLAMA3_JSON


class AnswerForm(NamedTuple):
    """How an answer is kept to what was asked for."""

    grammar: Grammar | None
    plan: ChannelPlan
    """The channels that the grammar leaves."""
    warnings: list[str]
    """About what can't be enforced."""


async def answer_form(
    door: GrammarDoor, model: ServedModel, plan: ChannelPlan, tools: ToolUse, form: Form | None
) -> AnswerForm:
    """The grammar, checked. Raises InvalidRequest naming the field at fault, QueueFull."""
    if form is not None and not tools.is_required:
        _check_mix(plan, form)
    warnings = await door.check(form, model)
    is_json = form is not None and form.grammar.kind == "json_schema"
    if form is not None and not tools.offers and not (is_json and plan.tags is not None):
        # Only a JSON form can be told from thoughts before it: with another one there are none.
        return AnswerForm(form.grammar, replace(plan, tags=None), warnings)
    alone = list(_alone(tools))
    names = [offer.function.name for offer in tools.offers]
    tool_format, terms = _terms(plan.tool_format, [its_form.grammar for its_form in alone])
    answer = _term(form.grammar) if form is not None and is_json else None
    parameters = dict(zip(names, terms, strict=True))
    rules = AnswerRules(replace(plan, tool_format=tool_format), parameters, tools.is_required, answer)
    text = answer_grammar(rules, model.tokenizer.ids_of(plan.marks))
    if text is None or not (tools.is_required or form is not None or model.tokenizer.has_byte_tokens):
        return AnswerForm(None, plan, warnings)
    if len(text) > MAX_GRAMMAR_CHARS:
        raise _too_large(tools)
    whole = Form(form.param if form is not None and not tools.offers else tools.param, Grammar("ebnf", text))
    try:
        warnings += await door.check(whole, model)
    except InvalidRequest:
        for its_form in alone:
            await door.check(its_form, model)
        raise
    warnings += [f"{its_form.param}: {warning}" for its_form in alone for warning in its_form.warnings]
    return AnswerForm(whole.grammar, plan, warnings)


def _check_mix(plan: ChannelPlan, form: Form) -> None:
    """Raise InvalidRequest where a call could not be told from an answer of the form."""
    if plan.tool_format is None or (form.grammar.kind == "json_schema" and plan.tool_format.mark is not None):
        return
    raise InvalidRequest(
        "not together with tools that may be called or not: set tool_choice to 'none' or 'required'", param=form.param
    )


def _alone(tools: ToolUse) -> Iterator[Form]:
    """The form of each tool's arguments. Raises InvalidRequest for schemas beyond the limits, alone or together."""
    num_characters = 0
    for offer in tools.offers:
        schema = {"type": "object", **offer.function.parameters}
        form = schema_form(schema, offer.schema_path, is_lenient=not offer.function.strict)
        num_characters += len(form.grammar.text)
        if num_characters > MAX_GRAMMAR_CHARS:
            raise _too_large(tools)
        yield form


def _too_large(tools: ToolUse) -> InvalidRequest:
    return InvalidRequest(f"the tools have more than {MAX_GRAMMAR_CHARS} characters", param=tools.param)


def _terms(tool_format: ToolFormat | None, grammars: Sequence[Grammar]) -> tuple[ToolFormat | None, list[str]]:
    """The dialect to write calls in, and the arguments of each tool as terms of the whole grammar."""
    if tool_format is None or not tool_format.syntax.has_keywords:
        return tool_format, [_term(grammar) for grammar in grammars]
    terms = [term for grammar in grammars if (term := keyword_term(grammar)) is not None]
    # Whoever reads keywords reads Llama's JSON too, in which all arguments can be written.
    return (tool_format, terms) if len(terms) == len(grammars) else (LLAMA3_JSON, [_term(one) for one in grammars])


def _term(grammar: Grammar) -> str:
    """A JSON schema as a part of the whole grammar."""
    return json_term(json.loads(grammar.text), grammar.is_lenient)
