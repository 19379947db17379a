"""A thinking budget ends thoughts when it is used up, whatever comes after them and wherever a text is taken up."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.constraint import Compiler, Constraint
from model.grammar import ANYTHING, Grammar, Vocabulary, json_term
from model.thinking import ThinkingBudget, Thoughts
from server.text.answer_grammar import AnswerRules, answer_grammar
from server.text.channels import ChannelPlan
from server.text.reasoning import TAGS
from server.text.tool_formats.registry import FORMATS
from tests.constraint.walks import allowed, vocabulary_of
from tests.fakes import byte_tokenizer
from tests.text.splitting import split

TAGS_OF = TAGS["think"]
PLAIN, SPECIAL = byte_tokenizer(), byte_tokenizer(TAGS_OF.opening, TAGS_OF.closing)
ENDS = (257, 259)
SCHEMAS = [
    {"type": "object", "properties": {name: value}, "required": [name], "additionalProperties": False}
    for name, value in (("a", {"type": "boolean"}), ("x", {"const": 1}))
]
PARAMETERS, FORM = {"f": json_term(SCHEMAS[0], False)}, json_term(SCHEMAS[1], False)
KINDS = {
    "anything": {},
    "tools": {"tool_format": "hermes"},
    "required": {"tool_format": "hermes", "is_required": True},
    "form": {"form": FORM},
}


class Model:
    """A tokenizer's grammars and budgets."""

    def __init__(self, tokenizer) -> None:
        self.tokenizer = tokenizer
        self.vocabulary: Vocabulary = vocabulary_of(tokenizer, ENDS)
        self.compiler = Compiler(self.vocabulary)
        self.constraints = {(kind, is_open): self.compile(kind, is_open) for kind in KINDS for is_open in (False, True)}

    def compile(self, kind: str, is_thinking: bool) -> Constraint:
        options = dict(KINDS[kind])
        tool_format = FORMATS[options.pop("tool_format")] if "tool_format" in options else None
        plan = ChannelPlan(TAGS_OF, tool_format, frozenset(PARAMETERS), is_thinking=is_thinking, max_calls=1)
        rules = AnswerRules(plan, PARAMETERS if tool_format else {}, **options)
        text = answer_grammar(rules, self.tokenizer.ids_of(plan.marks))
        return self.compiler.compile(ANYTHING if text is None else Grammar("lark", text))

    def budget(self, max_tokens: int, is_open: bool) -> ThinkingBudget:
        closing_ids = tuple(self.tokenizer.encode_continuation(TAGS_OF.closing))
        return ThinkingBudget(max_tokens, TAGS_OF.opening.encode(), TAGS_OF.closing.encode(), closing_ids, is_open)

    def followers(self, budget: ThinkingBudget) -> list[Thoughts]:
        return [Thoughts(budget, self.vocabulary.tokens)]

    def text(self, token_ids: list[int]) -> str:
        return self.tokenizer.decode([i for i in token_ids if i not in ENDS], skip_special_tokens=False)


MODELS = {"ordinary text": Model(PLAIN), "special tokens": Model(SPECIAL)}


def write(model: Model, constraint: Constraint, budget: ThinkingBudget, seed: int, start: list[int]) -> list[int]:
    """A text whose tokens are drawn at random among the allowed; it goes on from `start`."""
    rng, token_ids, matcher = np.random.default_rng(seed), list(start), constraint.start(start, model.followers(budget))
    while not matcher.is_complete and len(token_ids) < 150 and not set(token_ids) & set(ENDS):
        choices = sorted(allowed(matcher, model.vocabulary))
        assert choices
        token_ids.append(int(rng.choice(choices)))
        matcher.take(token_ids[-1:])
    return token_ids


@pytest.mark.parametrize("name", MODELS)
@given(st.sampled_from(list(KINDS)), st.booleans(), st.integers(0, 12), st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_no_text_thinks_longer_than_its_budget(name: str, kind: str, is_open: bool, most: int, seed: int) -> None:
    model = MODELS[name]
    constraint, budget = model.constraints[kind, is_open], model.budget(most, is_open)
    start = [] if is_open else model.tokenizer.encode(TAGS_OF.opening, add_special_tokens=False)
    token_ids = write(model, constraint, budget, seed, start)
    thoughts = token_ids[len(start) :]
    if thoughts and thoughts[-1] in ENDS and TAGS_OF.closing not in model.text(thoughts):
        assert kind in ("anything", "tools"), "the model's own end"
        return
    # Up to three tokens more where a grammar waits for the rest of a character.
    assert TAGS_OF.closing in model.text(thoughts[: most + 3 + len(budget.closing_ids)])
    assert TAGS_OF.closing in model.text(thoughts[: most + len(budget.closing_ids)]) or kind != "anything"
    # Taken up again anywhere it goes on as it went: the next mask is a function of the tokens alone.
    cut = seed % (len(token_ids) + 1)
    again = constraint.start(token_ids[:cut], model.followers(budget))
    step_by_step = constraint.start((), model.followers(budget))
    for token_id in token_ids[:cut]:
        step_by_step.take([token_id])
    if not again.is_complete:
        assert allowed(again, model.vocabulary) == allowed(step_by_step, model.vocabulary)


@pytest.mark.parametrize("name", MODELS)
def test_what_follows_the_thoughts_keeps_to_its_grammar(name: str) -> None:
    model = MODELS[name]
    for kind in ("required", "form"):
        ids = write(model, model.constraints[kind, True], model.budget(5, True), 3, [])
        result = split(model.text(ids), "hermes", "think", is_thinking=True)
        if kind == "form":
            assert json.loads(result.content) == {"x": 1}
        else:
            [(_, arguments)] = result.called
            assert set(arguments) == {"a"}


@pytest.mark.parametrize("name", MODELS)
def test_thoughts_that_end_by_themselves_are_left_alone(name: str) -> None:
    model = MODELS[name]
    text = model.tokenizer.encode(f"{TAGS_OF.opening}ab{TAGS_OF.closing}", add_special_tokens=False)
    matcher = model.constraints["anything", False].start(text, model.followers(model.budget(2, False)))
    assert len(allowed(matcher, model.vocabulary)) == len(model.vocabulary.tokens)


def test_a_text_without_thoughts_has_no_end_forced_on_it() -> None:
    model = MODELS["ordinary text"]
    for text in ("Hello <think>", " \n<thin k>", "x" * 50):
        ids = model.tokenizer.encode(text, add_special_tokens=False)
        matcher = model.constraints["anything", False].start(ids, model.followers(model.budget(0, False)))
        assert len(allowed(matcher, model.vocabulary)) == len(model.vocabulary.tokens)


@pytest.mark.parametrize("name", MODELS)
def test_a_budget_of_0_closes_open_thoughts_at_once(name: str) -> None:
    model = MODELS[name]
    budget = model.budget(0, True)
    matcher = model.constraints["anything", True].start((), model.followers(budget))
    for token_id in budget.closing_ids:
        assert allowed(matcher, model.vocabulary) == {token_id}
        matcher.take([token_id])
    assert len(allowed(matcher, model.vocabulary)) == len(model.vocabulary.tokens)
