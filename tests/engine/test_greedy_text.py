"""At temperature 0 a text depends on its prompt alone: the real runner under the real engine, in float32."""

from pathlib import Path

import msgspec
import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from server.engine.engine import Engine
from tests.engine.generation import (
    BLOCK,
    GREEDY,
    MAX_MODEL_LEN,
    alone,
    make_engine,
    neighbours,
    prompt,
    request,
    run,
)

BUNDLED = Path(__file__).parents[2] / "model" / "demo" / "bundled"
STARTS = ["Once upon a time", "The little dog", "我爱北京天安", "A", "Tom and his sister went to the park. They"]
PROMPTS = {"random": [prompt(n, seed=n) for n in (1, 2, 15, 16, 17, 40, 90)]}
PROMPTS["bundled"] = [Tokenizer.from_file(str(BUNDLED / "tokenizer.json")).encode(text).ids for text in STARTS]
SMALLEST_POOL = MAX_MODEL_LEN // BLOCK


@pytest.fixture(scope="module", params=["random", "bundled"])
def model(request, model_dir) -> tuple[Path, list[list[int]], list[list[int]]]:
    """A checkpoint, prompts, and how transformers goes on with each."""
    directory = model_dir if request.param == "random" else BUNDLED
    theirs = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)
    theirs.generation_config.eos_token_id = None
    prompts = PROMPTS[request.param]
    return directory, prompts, [continuation(theirs, prompt_ids) for prompt_ids in prompts]


def continuation(theirs: LlamaForCausalLM, prompt_ids: list[int]) -> list[int]:
    inputs = torch.tensor([prompt_ids])
    generated = theirs.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=GREEDY.max_tokens,
        do_sample=False,
        pad_token_id=0,
    )
    return generated[0, len(prompt_ids) :].tolist()


@pytest.fixture
def engine(model_dir) -> Engine:
    return make_engine(model_dir)


def test_the_texts_differ(model):
    """Else the tests below would show little."""
    _, _, expected = model
    assert len({tuple(ids) for ids in expected}) == len(expected)


@pytest.mark.parametrize("max_step_tokens", [16, 512])
def test_text_equals_that_of_transformers_alone_and_in_chunks(model, max_step_tokens):
    directory, prompts, expected = model
    engine = make_engine(directory, max_step_tokens=max_step_tokens)
    assert [alone(engine, prompt_ids, GREEDY).token_ids for prompt_ids in prompts] == expected


@pytest.mark.parametrize("max_step_tokens", [16, 512])
def test_text_is_the_same_among_sixteen_of_any_kind(model, max_step_tokens):
    directory, prompts, expected = model
    engine = make_engine(directory, max_step_tokens=max_step_tokens)
    ours = [request(prompt_ids, GREEDY, sequence_id=i) for i, prompt_ids in enumerate(prompts)]
    texts = run(engine, [*neighbours(16 - len(ours)), *ours])
    assert [texts[i].token_ids for i in range(len(ours))] == expected


def test_text_is_the_same_after_preemption(model):
    directory, prompts, expected = model
    engine = make_engine(directory, num_blocks=SMALLEST_POOL + 4)
    ours = [request(prompt_ids, GREEDY, sequence_id=i) for i, prompt_ids in enumerate(prompts)]
    texts = run(engine, [*neighbours(9), *ours])
    assert engine.stats().num_preemptions >= 5
    assert [texts[i].token_ids for i in range(len(ours))] == expected


@pytest.mark.parametrize("max_step_tokens", [16, 512])
def test_dt01_text_is_the_same_from_the_prefix_cache(model, max_step_tokens):
    directory, prompts, expected = model
    engine = make_engine(directory, max_step_tokens=max_step_tokens)
    for prompt_ids in prompts:
        alone(engine, prompt_ids, GREEDY)
    assert engine.stats().prefix_hit_tokens == 0
    for prompt_ids, ids in zip(prompts, expected, strict=True):
        # All its full blocks but the one of the last token, which is computed for its logits.
        expected_hits = (len(prompt_ids) - 1) // BLOCK * BLOCK
        warm = alone(engine, prompt_ids, GREEDY)
        assert (warm.token_ids, warm.num_cached) == (ids, expected_hits)


@pytest.mark.parametrize("max_step_tokens", [16, 512])
def test_dt01_fifty_prompts_with_a_common_beginning_read_the_same_cold_and_warm(model_dir, max_step_tokens):
    short = msgspec.structs.replace(GREEDY, max_tokens=8)
    prompts = [prompt(50)[: 7 + i % 40] + prompt(1 + i % 9, seed=i) for i in range(50)]
    engine = make_engine(model_dir, max_step_tokens=max_step_tokens)
    cold = [alone(engine, ids, short, cache_salt=str(i)).token_ids for i, ids in enumerate(prompts)]
    assert engine.stats().prefix_hit_tokens == 0
    engine = make_engine(model_dir, max_step_tokens=max_step_tokens)
    requests = [request(ids, short, sequence_id=i) for i, ids in enumerate(prompts)]
    for _ in range(2):
        texts = run(engine, requests)
        assert [texts[i].token_ids for i in range(50)] == cold
    stats = engine.stats()
    assert stats.prefix_query_tokens == 2 * sum(map(len, prompts))
    assert stats.prefix_hit_tokens > 0.7 * stats.prefix_query_tokens


def test_dt01_text_is_the_same_when_it_goes_on_from_a_cached_answer(engine):
    """As the second turn of a chat does: prompt and answer of the first are found in the cache."""
    first = prompt(21)
    answer = alone(engine, first, GREEDY).token_ids
    second = [*first, *answer, *prompt(6, seed=1)]
    warm = alone(engine, second, GREEDY)
    assert warm.num_cached >= len(first + answer) - BLOCK
    assert warm.token_ids == alone(engine, second, GREEDY, cache_salt="cold").token_ids


def test_dt01_text_is_the_same_after_it_was_cut_short(engine):
    """As by a stop string, or by a client that went away: what was computed is in the cache."""
    cold = alone(engine, prompt(30), GREEDY, cache_salt="cold")
    steps = iter([True] * 9)
    cut = run(engine, [request(prompt(30), GREEDY)], lambda step: engine.abort([] if next(steps, None) else [0]))
    assert 0 < len(cut[0].token_ids) < GREEDY.max_tokens
    warm = alone(engine, prompt(30), GREEDY)
    assert warm.num_cached == 28
    assert warm.token_ids == cold.token_ids


def test_dt01_salted_requests_share_only_with_their_own_salt(engine):
    cold = alone(engine, prompt(40), GREEDY, cache_salt="a")
    other = alone(engine, prompt(40), GREEDY, cache_salt="b")
    warm = alone(engine, prompt(40), GREEDY, cache_salt="a")
    assert (cold.num_cached, other.num_cached, warm.num_cached) == (0, 0, 36)
    assert cold.token_ids == other.token_ids == warm.token_ids


def test_text_goes_on_from_each_emitted_token_in_a_new_engine(engine):
    whole = alone(engine, prompt(17), GREEDY)
    for count in range(1, GREEDY.max_tokens):
        rest = alone(engine, prompt(17), GREEDY, emitted=whole.token_ids[:count], cache_salt=str(count))
        assert whole.token_ids[:count] + rest.token_ids == whole.token_ids
        assert rest.reason == whole.reason == "length"


def test_choices_of_one_request_write_the_same_text_and_compute_the_prompt_once(engine):
    whole = alone(engine, prompt(41), GREEDY, cache_salt="cold")
    computed: list[int] = []
    texts = run(engine, [request(prompt(41), GREEDY, n=4)], lambda step: computed.append(step.stats.num_blocks_used))
    assert [texts[i].token_ids for i in range(4)] == [whole.token_ids] * 4
    assert [texts[i].num_cached for i in range(4)] == [0, 40, 40, 40]
    assert max(computed) < 4 * 41 // BLOCK


def test_priorities_change_the_order_and_not_the_text(model_dir):
    engine = make_engine(model_dir, max_num_seqs=2)
    prompts = [prompt(11 + 7 * i, seed=i) for i in range(5)]
    expected = [alone(engine, ids, GREEDY, cache_salt="alone").token_ids for ids in prompts]
    ends: list[int] = []
    requests = [request(ids, GREEDY, sequence_id=i, priority=-i) for i, ids in enumerate(prompts)]
    texts = run(engine, requests, lambda step: ends.extend(end.sequence_id for end in step.finished))
    assert [texts[i].token_ids for i in range(5)] == expected
    assert set(ends[:2]) == {3, 4}
