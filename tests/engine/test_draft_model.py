"""A second, smaller model that guesses: it changes no text, is right where it says the same, and is asked in time."""

from pathlib import Path
from typing import Any

import pytest

from model.batch import SamplingParams
from model.errors import UnsupportedModel
from server.engine.draft_planner import MAX_LAG, DraftPlanner, Offer, best_length
from server.engine.drafting import MAX_DRAFTS, UNKNOWN_COSTS, Drafter, Record, StepCosts
from server.engine.engine import Engine
from server.engine.sequence import Sequence
from server.engine.step_costs import SIZES, measure_draft_costs
from tests.engine.generation import (
    BLOCK,
    GREEDY,
    MAX_MODEL_LEN,
    VOCAB,
    Generated,
    make_engine,
    neighbours,
    prompt,
    request,
    run,
    save_llama,
)

FREE = StepCosts((1, 64), (1.0, 1.0))
CHEAP = StepCosts((1, 64), (0.001, 0.001))
GREEDY_WITHOUT_REPETITION = SamplingParams(max_tokens=40, temperature=0.0, frequency_penalty=2.0, ignore_eos=True)
SAMPLED = SamplingParams(max_tokens=40, temperature=0.9, seed=4, ignore_eos=True)


@pytest.fixture(scope="module")
def smaller(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("smaller")
    save_llama(directory, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, num_key_value_heads=4)
    return directory


def drafted_engine(model_dir: Path, draft: Path, **options: Any) -> Engine:
    return make_engine(model_dir, step_costs=FREE, draft_costs=CHEAP, draft_model_dir=str(draft), **options)


def texts(generated: dict[int, Generated]) -> dict[int, tuple[list[int], str]]:
    return {key: (one.token_ids, one.reason) for key, one in generated.items()}


@pytest.mark.parametrize("kernels", ["auto", "torch"])
@pytest.mark.parametrize("guesser", ["smaller", "model_dir"])
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="plain"),
        pytest.param({"is_overlapped": True}, id="overlapped"),
        pytest.param({"num_blocks": MAX_MODEL_LEN // BLOCK}, id="preempted"),
        pytest.param({"prefix_caching": False}, id="not shared"),
    ],
)
def test_texts_of_every_kind_are_those_without_it(model_dir, guesser, kernels, options, request: pytest.FixtureRequest):
    requests = [*neighbours(7), several(prompt(30, 1), SAMPLED, 2000, 3), several(prompt(30, 1), GREEDY, 3000, 1)]
    expected = texts(run(make_engine(model_dir, kernels=kernels), requests))
    engine = drafted_engine(model_dir, request.getfixturevalue(guesser), kernels=kernels, max_num_seqs=6, **options)
    assert texts(run(engine, requests)) == expected
    proposed = engine.stats().num_drafts
    assert proposed > 10
    assert texts(run(engine, requests)) == expected, "and again, from what both caches hold now"
    assert engine.stats().num_drafts > proposed
    if "num_blocks" in options:
        assert engine.stats().num_preemptions > 0


def several(prompt_ids: list[int], params: SamplingParams, first_id: int, n: int, **fields: Any):
    return request(prompt_ids, params, sequence_id=first_id, n=n, **fields)


@pytest.mark.parametrize("params", [SAMPLED, GREEDY_WITHOUT_REPETITION])
def test_a_draft_model_that_is_the_model_is_right_at_any_temperature(model_dir: Path, params: SamplingParams) -> None:
    """It draws with the same random numbers, so nothing but rounding is between the two."""
    engine = drafted_engine(model_dir, model_dir)
    steps = []
    run(engine, [request(prompt(40), params)], lambda step: steps.append(len(step.token_ids)))
    stats = engine.stats()
    assert stats.num_accepted_drafts == stats.num_drafts > 15
    assert max(steps) == MAX_DRAFTS + 1


def test_a_request_goes_on_after_its_worker_died(model_dir: Path, smaller: Path) -> None:
    whole = run(make_engine(model_dir), [request(prompt(20), SAMPLED)])[0].token_ids
    engine = drafted_engine(model_dir, smaller)
    rest = run(engine, [request(prompt(20), SAMPLED, emitted=whole[:17])])[0]
    assert whole[:17] + rest.token_ids == whole


def test_its_cache_takes_memory_beside_the_models(model_dir: Path) -> None:
    alone = make_engine(model_dir, kv_cache_bytes=2**17)
    both = make_engine(model_dir, kv_cache_bytes=2**17 * 2, draft_model_dir=str(model_dir))
    assert both._scheduler.limits.num_blocks == alone._scheduler.limits.num_blocks


def test_its_steps_are_measured(model_dir: Path, smaller: Path) -> None:
    engine = make_engine(model_dir, draft_model_dir=str(smaller))
    costs = measure_draft_costs(engine._runner, max_model_len=MAX_MODEL_LEN, block_size=BLOCK)
    assert costs is not None
    assert costs.sizes == SIZES
    assert all(cost >= 0 for cost in costs.costs)
    assert measure_draft_costs(engine._runner, max_model_len=20, block_size=BLOCK) is None
    assert run(engine, [request(prompt(20), GREEDY)])[0].token_ids, "the engine works after it"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"vocab_size": VOCAB + 8}, f"its vocabulary has {VOCAB + 8} tokens, the model's {VOCAB}"),
        ({"max_position_embeddings": 64}, "it takes 64 tokens of context, the model is served with 128"),
    ],
)
def test_a_model_that_cannot_guess_for_this_one_is_refused(model_dir, tmp_path, changes, reason):
    save_llama(tmp_path, **changes)
    with pytest.raises(UnsupportedModel, match=reason):
        make_engine(model_dir, draft_model_dir=str(tmp_path))


def sequence(
    token_ids: list[int], num_generated: int, *, num_draft_computed: int = 0, max_tokens: int = 1000
) -> Sequence:
    return Sequence(
        id=0,
        token_ids=token_ids,
        num_prompt=len(token_ids) - num_generated,
        params=SamplingParams(max_tokens=max_tokens),
        eos_token_ids=frozenset(),
        drafter=Drafter([], token_ids),
        num_draft_computed=num_draft_computed,
    )


def planner(draft_costs: StepCosts | None = None) -> DraftPlanner:
    return DraftPlanner(FREE, draft_costs or CHEAP, block_size=BLOCK, max_step_tokens=64)


def test_a_guess_from_the_text_goes_before_the_draft_models() -> None:
    repeats = sequence([1, 2, 3, 4, 1, 2, 3], 2)
    (draft,) = planner().plan([repeats]).values()
    assert draft.guess[:2] == [4, 1]
    assert draft.proposal is None


def test_the_draft_model_first_computes_what_it_lacks() -> None:
    (draft,) = planner().plan([sequence(list(range(20)), 5, num_draft_computed=12)]).values()
    assert draft.proposal is not None
    assert (draft.proposal.start, draft.proposal.num_new, draft.proposal.num_tokens) == (12, 8, MAX_DRAFTS)


def test_a_long_prompt_is_computed_once_the_text_has_shown_to_be_long() -> None:
    dear = StepCosts((1, 64), (0.01, 6.4))  # a tenth of a step for each token
    prompt_ids = list(range(10_000, 10_200))
    assert planner(dear).plan([sequence(prompt_ids, 5)]) == {}
    (draft,) = planner(dear).plan([sequence(prompt_ids, 100)]).values()
    assert draft.num_tokens == 0
    assert draft.proposal is not None
    assert (draft.proposal.start, draft.proposal.num_new) == (0, 64), "and in pieces"
    assert planner(dear).plan([sequence(prompt_ids, 100, max_tokens=103)]) == {}, "too little is left of it"


def test_sequences_whose_guesses_are_only_worth_it_together_wait_for_each_other() -> None:
    costs = StepCosts((1, 4, 16), (1.0, 1.1, 1.7))
    draft_costs = StepCosts((1, 4, 16), (0.1, 0.1, 0.1))
    four = DraftPlanner(costs, draft_costs, block_size=BLOCK, max_step_tokens=64)
    running = [sequence(list(range(1000 * i, 1000 * i + 60)), 30) for i in range(4)]
    for number, one in enumerate(running):
        one.id = number
    for one in running:
        (draft,) = (draft for draft in four.plan(running).values() if not draft.num_tokens)
        assert draft.proposal is not None
        four.note_computed(one, draft.proposal)
        one.token_ids.append(10_000)
    assert [draft.num_tokens > 0 for draft in four.plan(running).values()] == [True] * 4


def test_what_it_has_computed_for_others_is_found_until_it_is_overwritten() -> None:
    both = planner()
    token_ids = list(range(MAX_LAG + 2 * BLOCK + 1))
    first, second, third = (sequence(token_ids, 5) for _ in range(3))
    first.blocks = second.blocks = third.blocks = list(range(-(-len(token_ids) // BLOCK)))

    def num_to_compute(asked: Sequence) -> int:
        (draft,) = both.plan([asked]).values()
        assert draft.proposal is not None
        both.note_computed(asked, draft.proposal)
        return draft.proposal.num_new

    assert num_to_compute(first) == len(token_ids)
    assert num_to_compute(second) == 1
    both.note_overwritten(first.blocks[1:2])
    assert num_to_compute(third) == len(token_ids) - BLOCK


def test_a_draft_model_that_costs_more_than_it_brings_is_not_asked_for_a_while() -> None:
    dear = planner(StepCosts((1, 64), (1.0, 1.0)))
    asked = sequence(list(range(20)), 5, num_draft_computed=19)
    assert dear.awaits_token(asked, 1)
    assert dear.plan([asked]) == {}
    assert not dear.awaits_token(asked, 1), "so nothing waits for its guesses"
    assert asked.drafter is not None
    for _ in range(2):
        asked.drafter.extend(0)
    assert dear.awaits_token(asked, 1)


def test_each_guess_costs_a_step_of_the_draft_model() -> None:
    offers = [Offer(0, Record(0.9), MAX_DRAFTS, lag=1)]
    lengths = [best_length(offers, 1, FREE, StepCosts((1, 64), (cost, cost)))[0] for cost in (0.01, 0.15, 0.3, 1.0)]
    assert lengths == sorted(lengths, reverse=True)
    assert (lengths[0], lengths[-1]) == (MAX_DRAFTS, 0)
    assert best_length(offers, 1, UNKNOWN_COSTS, CHEAP) == (0, 1.0)
