"""EleutherAI's evaluation harness, on tasks of our own."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from claims import BASE_URL, MODEL, check
from lm_eval.tasks import TaskManager

# isort: split
# docs: begin
import lm_eval

completions = {"model": MODEL, "base_url": f"{BASE_URL}/completions"}
chat = {"model": MODEL, "base_url": f"{BASE_URL}/chat/completions"}
# lm_eval.simple_evaluate("local-completions", model_args=completions, tasks=...)
# lm_eval.simple_evaluate("local-chat-completions", model_args=chat, tasks=..., apply_chat_template=True)
# docs: end

TASKS = TaskManager(include_path=str(Path(__file__).parent), include_defaults=False)
NUM_QUESTIONS = len(Path("questions.jsonl").read_text().splitlines())


def evaluate(
    model: str, model_args: dict[str, Any], task: str, **options: Any
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """The task's results and its samples."""
    done = lm_eval.simple_evaluate(model, model_args, tasks=[task], task_manager=TASKS, bootstrap_iters=0, **options)
    samples = done["samples"][task]
    assert len(samples) == NUM_QUESTIONS
    return done["results"][task], samples


def local_completions() -> Iterator[str]:
    results, samples = evaluate("local-completions", completions, "nexttoken_choice")
    assert 0 <= results["acc,none"] <= 1
    for sample in samples:
        assert len(sample["filtered_resps"]) == len(sample["doc"]["choices"])
        for logprob, is_greedy in sample["filtered_resps"]:
            assert float(logprob) < 0
            assert str(is_greedy) in ("True", "False")
    yield "each choice has the log-likelihood of its tokens after the question"
    _, batched = evaluate("local-completions", completions | {"batch_size": 4}, "nexttoken_choice")
    for one, other in zip(samples, batched, strict=True):
        for (alone, _), (together, _) in zip(one["filtered_resps"], other["filtered_resps"], strict=True):
            assert math.isclose(float(alone), float(together), rel_tol=0.02)
    yield "and so it has in batches"
    results, _ = evaluate("local-completions", completions, "nexttoken_perplexity")
    assert 1 < results["word_perplexity,none"] < math.inf
    yield "a whole text has a perplexity"
    _, samples = evaluate("local-completions", completions, "nexttoken_generate")
    assert all("\n" not in sample["resps"][0][0] and "." not in sample["resps"][0][0] for sample in samples)
    yield "texts are generated up to a stop string"


def local_chat_completions() -> Iterator[str]:
    _, samples = evaluate("local-chat-completions", chat, "nexttoken_generate", apply_chat_template=True)
    assert all("\n" not in sample["resps"][0][0] and "." not in sample["resps"][0][0] for sample in samples)
    yield "answers are generated up to a stop string"


check(local_completions, local_chat_completions)
