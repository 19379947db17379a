"""The grammar of a chat's answer, from its tools, the form it asks for and the thoughts that may come first."""

import asyncio
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from model.grammar import Grammar, json_term, member_term, string_term
from server.api.grammars import GrammarDoor
from server.api.keyword_grammar import keyword_term
from server.errors import InvalidRequest
from server.protocol.custom_tools import INPUT
from server.protocol.structured import MAX_GRAMMAR_CHARS, Form, schema_form
from server.protocol.tools import ToolUse
from server.served import ServedModel
from server.text.answer_grammar import AnswerRules, answer_grammar
from server.text.channels import ChannelPlan
from server.text.lark_in_json import lark_in_json
from server.text.regex_in_json import NotInJson
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
    if form is not None and tools.is_required:
        warnings.append(f"{form.param}: not used, as the answer is a call of a tool")
    # Alone, before anything stands around them: what is no whole grammar could else become a part of that.
    for offer in tools.offers:
        warnings += await door.check(offer.input, model)
    is_json = form is not None and form.grammar.kind == "json_schema"
    if form is not None and not tools.offers and not (is_json and plan.tags is not None):
        # Only a JSON form can be told from thoughts before it: with another one there are none.
        return AnswerForm(form.grammar, replace(plan, tags=None), warnings)
    write = partial(_written, plan, tools, form if is_json else None)
    # In a thread: written out, a schema may be two hundred times as long.
    alone, rules = await asyncio.to_thread(write) if tools.offers or is_json else write()
    text = answer_grammar(rules, model.tokenizer.ids_of(plan.marks))
    if text is None or not (tools.is_required or form is not None or model.tokenizer.has_byte_tokens):
        return AnswerForm(None, plan, warnings)
    param = form.param if form is not None and not tools.offers else tools.param
    if len(text) > MAX_GRAMMAR_CHARS:
        raise _too_large(param)
    whole = Form(param, Grammar("lark", text))
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


def _written(plan: ChannelPlan, tools: ToolUse, form: Form | None) -> tuple[list[Form], AnswerRules]:
    """The forms of the tools' arguments, and with them what the answer must be. `form`: of JSON."""
    alone = list(_alone(tools))
    names = [offer.function.name for offer in tools.offers]
    tool_format, terms = _terms(plan.tool_format, [its_form.grammar for its_form in alone])
    parameters = dict(zip(names, terms, strict=True))
    answer = None if form is None else _term(form.grammar)
    return alone, AnswerRules(replace(plan, tool_format=tool_format), parameters, tools.is_required, answer)


def _alone(tools: ToolUse) -> Iterator[Form]:
    """The form of each tool's arguments, or of its input as JSON writes it.

    Raises InvalidRequest for what can't be enforced, and for what is beyond the limits, alone or together.
    """
    num_characters = 0
    for offer in tools.offers:
        if offer.input is not None and offer.input.grammar.kind == "lark":
            form = _input_in_json(offer.input)
        else:
            schema = {"type": "object", **offer.function.parameters}
            form = schema_form(schema, offer.schema_path, is_lenient=not offer.function.strict)
        num_characters += len(form.grammar.text)
        if num_characters > MAX_GRAMMAR_CHARS:
            raise _too_large(tools.param if len(form.grammar.text) <= MAX_GRAMMAR_CHARS else form.param)
        yield form


def _input_in_json(form: Form) -> Form:
    try:
        return Form(form.param, Grammar("lark", lark_in_json(form.grammar.text)))
    except NotInJson as error:
        raise InvalidRequest(str(error), param=form.param) from None


def _too_large(param: str) -> InvalidRequest:
    return InvalidRequest(f"written out it has more than {MAX_GRAMMAR_CHARS} characters", param=param)


def _terms(tool_format: ToolFormat | None, grammars: Sequence[Grammar]) -> tuple[ToolFormat | None, list[str]]:
    """The dialect to write calls in, and the arguments of each tool as terms of the whole grammar."""
    if tool_format is None or not tool_format.syntax.has_keywords:
        return tool_format, [_term(grammar) for grammar in grammars]
    terms = [term for grammar in grammars if (term := keyword_term(grammar)) is not None]
    # Whoever reads keywords reads Llama's JSON too, in which all arguments can be written.
    return (tool_format, terms) if len(terms) == len(grammars) else (LLAMA3_JSON, [_term(one) for one in grammars])


def _term(grammar: Grammar) -> str:
    """A JSON schema, or the input of a custom tool, as a part of the whole grammar."""
    if grammar.kind == "lark":
        return member_term(INPUT, string_term(grammar.text))
    return json_term(json.loads(grammar.text), grammar.is_lenient)
