"""Texts that follow a grammar, through engine, scheduler, runner and sampler, on a model with random weights."""

import json
import re
from pathlib import Path

import jsonschema
import msgspec
import pytest

from model.batch import SamplingParams
from model.grammar import ANYTHING, Grammar, Vocabulary
from model.thinking import ThinkingBudget
from server.engine.engine import Engine
from server.engine.grammars import ConstraintCache
from tests.constraint.walks import compiled
from tests.engine.generation import (
    BLOCK,
    EOS,
    GREEDY,
    MAX_MODEL_LEN,
    VOCAB,
    Generated,
    alone,
    make_engine,
    neighbours,
    prompt,
    request,
    run,
)

TEXTS = [
    *(letter for letter in map(chr, range(0x20, 0x7F)) if letter not in "@`^|~QRXYZ"),
    '{"',
    '":',
    '",',
    "true",
    "12",
    "\n",
]
TOKENS = [b"<s>"] * 6 + [text.encode() for text in TEXTS][: VOCAB - 6]
VOCABULARY = Vocabulary(TOKENS + [b""] * (VOCAB - len(TOKENS)), list(range(6)), list(EOS))

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
        "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "maxItems": 2},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}
OF_SCHEMA = Grammar("json_schema", json.dumps(SCHEMA))
THINKING = ThinkingBudget(9, b"<t>", b"</t>", tuple(TOKENS.index(letter) for letter in (b"<", b"/", b"t", b">")), True)
RULES = {"grammar": {"grammar": OF_SCHEMA}, "budget": {"grammar": ANYTHING, "thinking": THINKING}}


def engine_with_tokens(model_dir: Path, **options: int) -> Engine:
    engine = make_engine(model_dir, **options)
    engine.use(VOCABULARY)
    return engine


def text_of(generated: Generated) -> str:
    return b"".join(TOKENS[i] for i in generated.token_ids if i not in EOS).decode()


@pytest.mark.parametrize("temperature", [0.0, 1.0, 3.0])
def test_texts_are_valid_at_any_temperature_unless_they_are_cut(model_dir: Path, temperature: float) -> None:
    params = SamplingParams(max_tokens=100, temperature=temperature, grammar=OF_SCHEMA)
    requests = [
        request(prompt(6, seed), msgspec.structs.replace(params, seed=seed), sequence_id=seed) for seed in range(16)
    ]
    results = run(engine_with_tokens(model_dir), requests)
    assert {one.reason for one in results.values()} <= {"stop", "length"}
    complete = [text_of(one) for one in results.values() if one.reason == "stop"]
    assert complete
    for text in complete:
        jsonschema.validate(json.loads(text), SCHEMA)


@pytest.mark.parametrize(
    "changes", [{}, {"min_tokens": 5}, {"ignore_eos": True}, {"min_tokens": 5, "ignore_eos": True}]
)
@pytest.mark.parametrize("regex", ["a", "aba"])
def test_gr09_the_end_of_the_grammar_ends_the_text_in_the_same_step(model_dir: Path, regex: str, changes: dict) -> None:
    params = SamplingParams(max_tokens=30, grammar=Grammar("regex", regex), **changes)
    one = alone(engine_with_tokens(model_dir), prompt(5), params)
    assert text_of(one) == regex
    assert len(one.token_ids) == len(regex), "no token comes after it"
    assert (one.reason, one.stop_token_id, one.error) == ("stop", None, "")


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_an_end_of_sequence_token_ends_a_text_where_the_grammar_lets_it(model_dir: Path, ignore_eos: bool) -> None:
    for eos in EOS:
        params = SamplingParams(
            max_tokens=30,
            temperature=0.0,
            grammar=Grammar("regex", "[ab]{3,}"),
            logit_bias=((eos, 100.0),),
            ignore_eos=ignore_eos,
        )
        one = alone(engine_with_tokens(model_dir), prompt(5), params)
        assert re.fullmatch("[ab]{3}", text_of(one))
        assert (one.reason, one.stop_token_id, one.token_ids[-1]) == ("stop", eos, eos)


def test_min_tokens_hold_an_end_back_while_the_text_may_go_on(model_dir: Path) -> None:
    params = SamplingParams(
        max_tokens=30,
        temperature=0.0,
        grammar=Grammar("regex", "[ab]*"),
        min_tokens=7,
        logit_bias=tuple((eos, 100.0) for eos in EOS),
    )
    one = alone(engine_with_tokens(model_dir), prompt(5), params)
    assert (len(text_of(one)), one.reason) == (7, "stop")


def test_neighbours_of_a_text_with_a_grammar_write_what_they_write_without(model_dir: Path) -> None:
    others = neighbours(8)
    expected = run(engine_with_tokens(model_dir), others)
    guided = [
        request(prompt(4 + i, i), SamplingParams(max_tokens=60, grammar=OF_SCHEMA, seed=i), sequence_id=i)
        for i in range(6)
    ]
    together = run(engine_with_tokens(model_dir), [*others, *guided])
    assert {i: together[i].token_ids for i in expected} == {i: one.token_ids for i, one in expected.items()}


def test_is04_slots_that_grammars_have_left_are_free(model_dir: Path) -> None:
    engine = engine_with_tokens(model_dir)
    expected = alone(make_engine(model_dir), prompt(5), GREEDY)
    grammar = Grammar("regex", "a{4}")
    for i in range(40):
        params = SamplingParams(max_tokens=9, grammar=grammar)
        requests = [request(prompt(3, i), params, sequence_id=1), request(prompt(3, i + 50), params, sequence_id=2)]
        run(engine, requests, lambda step: engine.abort([2]) if 2 in step.sequence_ids else None)
        if i % 13 == 0:
            assert alone(engine, prompt(5), GREEDY).token_ids == expected.token_ids


@pytest.mark.parametrize("rule", RULES)
def test_a_preempted_text_goes_on_in_its_grammar(model_dir: Path, rule: str) -> None:
    params = SamplingParams(max_tokens=60, seed=5, **RULES[rule])
    expected = alone(engine_with_tokens(model_dir), prompt(20), params)
    engine = engine_with_tokens(model_dir, num_blocks=MAX_MODEL_LEN // BLOCK)
    together = run(engine, [*neighbours(14), request(prompt(20), params)])
    assert engine.stats().num_preemptions > 0
    assert together[0].token_ids == expected.token_ids
    assert together[0].reason == expected.reason


@pytest.mark.parametrize("rule", RULES)
def test_a_text_goes_on_in_its_grammar_in_a_new_engine(model_dir: Path, rule: str) -> None:
    params = SamplingParams(max_tokens=60, seed=5, **RULES[rule])
    expected = alone(engine_with_tokens(model_dir), prompt(20), params)
    for num_emitted in range(0, len(expected.token_ids) - 1, 5):
        emitted = expected.token_ids[:num_emitted]
        rest = alone(engine_with_tokens(model_dir), prompt(20), params, emitted=emitted)
        assert rest.token_ids == expected.token_ids[num_emitted:]
        assert rest.reason == expected.reason


def test_choices_of_one_request_each_follow_the_grammar(model_dir: Path) -> None:
    params = SamplingParams(max_tokens=40, temperature=2.0, grammar=Grammar("regex", "[a-d]{6}"), seed=1)
    results = run(engine_with_tokens(model_dir), [request(prompt(5), params, n=5)])
    texts = [text_of(one) for one in results.values()]
    assert all(re.fullmatch("[a-d]{6}", text) for text in texts)
    assert len(set(texts)) > 1


def test_the_thoughts_of_each_choice_end_by_themselves_or_when_their_budget_is_used_up(model_dir: Path) -> None:
    params = SamplingParams(max_tokens=40, temperature=2.0, seed=1, **RULES["budget"])
    results = run(engine_with_tokens(model_dir), [request(prompt(5), params, n=5)])
    for one in results.values():
        begun = one.token_ids[: THINKING.max_tokens + len(THINKING.closing_ids)]
        assert THINKING.closing in b"".join(TOKENS[i] for i in begun) or set(EOS) & set(begun)
    assert any(len(one.token_ids) > 20 for one in results.values()), "and the text goes on"


@pytest.mark.parametrize("vocabulary", [None, VOCABULARY])
def test_gr08_a_grammar_that_fails_in_the_worker_ends_its_request_alone(
    model_dir: Path, vocabulary: Vocabulary | None
) -> None:
    engine = make_engine(model_dir)
    if vocabulary is not None:
        engine.use(vocabulary)
    expected = alone(make_engine(model_dir), prompt(5), GREEDY)
    bad = request(prompt(5), SamplingParams(max_tokens=9, grammar=Grammar("regex", "a(")), sequence_id=7)
    engine.add(bad)
    finished = []
    results = run(engine, [request(prompt(5), GREEDY)], lambda step: finished.extend(step.finished))
    assert results[0].token_ids == expected.token_ids
    assert [one.reason for one in finished if one.sequence_id == 7] == ["error"]


def test_gr08_a_text_that_its_grammar_forbids_ends_its_request_alone(model_dir: Path) -> None:
    params = SamplingParams(max_tokens=20, grammar=Grammar("regex", "a{15}"))
    wrong = request(prompt(5), params, sequence_id=7, emitted=[TOKENS.index(b"b")])
    results = run(engine_with_tokens(model_dir), [request(prompt(5), params), wrong])
    assert (text_of(results[0]), results[0].reason) == ("a" * 15, "stop")
    assert (results[7].token_ids, results[7].reason) == ([], "error")


def test_a_request_that_is_aborted_while_its_grammar_compiles_never_starts(model_dir: Path) -> None:
    engine = engine_with_tokens(model_dir)
    params = SamplingParams(max_tokens=9, grammar=Grammar("regex", "[a-c]{5}"))
    engine.add(request(prompt(5), params, n=3))
    engine.abort([0, 2])
    results = run(engine, [])
    assert list(results) == [1]
    assert engine.stats().num_blocks_used == 0


def test_gr03_the_cache_of_compiled_grammars_is_bounded_and_keeps_what_was_asked_for_last() -> None:
    cache = ConstraintCache(max_bytes=10 * 65536)
    grammars = [Grammar("regex", f"a{{{i}}}") for i in range(1, 40)]
    for grammar in grammars:
        cache.keep(grammar, compiled(grammar.kind, grammar.text))
        assert cache.find(grammars[0]) is not None, "asked for each time"
    kept = [grammar for grammar in grammars if cache.find(grammar) is not None]
    assert kept == [grammars[0], *grammars[-len(kept) + 1 :]]
    assert len(kept) == 9


def test_a_grammar_that_met_a_limit_is_compiled_anew() -> None:
    cache, grammar = ConstraintCache(), Grammar("regex", "a")
    constraint = cache.keep(grammar, compiled("regex", "a"))
    assert cache.find(grammar) is constraint
    constraint.is_spent = True
    assert cache.find(grammar) is None
