"""A text from an fp8 KV cache is the same alone, in chunks, among others, after preemption, from the prefix cache."""

import msgspec
import pytest

from tests.engine.generation import BLOCK, GREEDY, MAX_MODEL_LEN, alone, make_engine, neighbours, prompt, request, run

FP8 = {"kv_cache_dtype": "fp8", "kernels": "torch"}
PROMPTS = [prompt(n, seed=n) for n in (1, 16, 17, 40, 90)]
REQUESTS = [request(prompt_ids, GREEDY, sequence_id=i) for i, prompt_ids in enumerate(PROMPTS)]


@pytest.fixture(scope="module")
def expected(model_dir):
    engine = make_engine(model_dir, **FP8)
    return [alone(engine, prompt_ids, GREEDY).token_ids for prompt_ids in PROMPTS]


def test_numbers_are_rounded(model_dir):
    params = msgspec.structs.replace(GREEDY, prompt_logprobs=0)
    exact, rounded = (make_engine(model_dir, kernels="torch", kv_cache_dtype=name) for name in ("auto", "fp8"))
    pairs = zip(*(alone(engine, PROMPTS[-1], params).prompt_logprobs for engine in (exact, rounded)), strict=True)
    differences = [abs(ours.chosen - theirs.chosen) for ours, theirs in pairs]
    assert 1e-5 < max(differences) < 0.3


def test_text_is_the_same_in_chunks_among_others_and_from_the_prefix_cache(model_dir, expected):
    engine = make_engine(model_dir, max_step_tokens=16, **FP8)
    for is_warm in (False, True):
        texts = run(engine, [*neighbours(4), *REQUESTS])
        assert [texts[i].token_ids for i in range(len(PROMPTS))] == expected
        assert not is_warm or texts[4].num_cached == 88


def test_text_is_the_same_after_preemption(model_dir, expected):
    engine = make_engine(model_dir, num_blocks=MAX_MODEL_LEN // BLOCK + 4, **FP8)
    texts = run(engine, [*neighbours(9), *REQUESTS])
    assert engine.stats().num_preemptions >= 5
    assert [texts[i].token_ids for i in range(len(PROMPTS))] == expected
