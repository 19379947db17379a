"""Real engines over real models in this process, and what they wrote."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from model.batch import Batch, SamplingParams, StepOutput, TokenLogprobs
from model.build import build_runner
from model.description import RunnerOptions
from model.results import Results
from model.runner import ModelRunner
from server.engine.drafting import UNKNOWN_COSTS, StepCosts
from server.engine.engine import Engine
from server.engine.messages import Choice, Request, StepResult
from server.engine.scheduler import SchedulerLimits

VOCAB = 96
MAX_MODEL_LEN = 128
BLOCK = 4
EOS = (2, 5)
GREEDY = SamplingParams(max_tokens=24, temperature=0.0, ignore_eos=True)


def save_llama(directory: Path, **changes: int) -> LlamaForCausalLM:
    """A small model with grouped queries and two EOS tokens, whose weights are spread enough to write varied text."""
    shape = {
        "vocab_size": VOCAB,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": MAX_MODEL_LEN,
    }
    config = LlamaConfig(**shape | changes, eos_token_id=list(EOS))
    torch.manual_seed(11)
    model = LlamaForCausalLM(config)
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if "norm" in name else 0.0, std=0.15)
    model.eval().save_pretrained(directory)
    return model


class OverlappedRunner:
    """A runner whose results are read late, as an asynchronous device's are."""

    is_asynchronous = True

    def __init__(self, runner: ModelRunner) -> None:
        self.runner = runner
        self.in_flight = 0
        self.was_ahead = False

    def enqueue(self, batch: Batch) -> Results:
        self.was_ahead |= self.in_flight > 0
        self.in_flight += 1
        return self.runner.enqueue(batch)

    def read(self, results: Results) -> StepOutput:
        self.in_flight -= 1
        return self.runner.read(results)


def make_engine(
    directory: Path,
    *,
    is_overlapped: bool = False,
    num_blocks: int | None = None,
    prefix_caching: bool = True,
    step_costs: StepCosts = UNKNOWN_COSTS,
    draft_costs: StepCosts | None = None,
    **options: Any,
) -> Engine:
    """An engine of 16 slots in float32, as the worker makes it. `num_blocks` overrides what the memory allows."""
    chosen = {
        "max_num_seqs": 16,
        "max_step_tokens": 64,
        "block_size": BLOCK,
        "kv_cache_bytes": 2**22,
        "max_model_len": MAX_MODEL_LEN,
        **options,
    }
    runner, model = build_runner(
        RunnerOptions(model_dir=str(directory), device="cpu", dtype="float32", num_threads=1, **chosen),
        lambda phase, fraction: None,
    )
    limits = SchedulerLimits(
        max_num_seqs=model.max_num_seqs,
        max_step_tokens=model.max_step_tokens,
        num_blocks=num_blocks or model.num_blocks,
        block_size=model.block_size,
        prefix_caching=prefix_caching,
        step_costs=step_costs,
        draft_costs=draft_costs,
    )
    assert limits.num_blocks <= model.num_blocks
    used = OverlappedRunner(runner) if is_overlapped else runner
    return Engine(used, limits, model.max_model_len, frozenset(model.eos_token_ids))


@dataclass
class Generated:
    """What came out for one sequence."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    num_cached: int = 0
    reason: str = ""
    stop_token_id: int | None = None
    error: str = ""


def prompt(length: int, seed: int = 0) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(6, VOCAB, (length,), generator=generator).tolist()


def request(
    prompt_ids: list[int],
    params: SamplingParams,
    *,
    sequence_id: int = 0,
    n: int = 1,
    emitted: list[int] | None = None,
    **fields: Any,
) -> Request:
    """Sequences `sequence_id` to `sequence_id + n - 1`, choices 0 to n - 1."""
    choices = [Choice(sequence_id + index, index, emitted or []) for index in range(n)]
    return Request(prompt_ids=prompt_ids, params=params, choices=choices, **fields)


def nothing(step: StepResult) -> None:
    """Do nothing after a step."""


def run(
    engine: Engine, requests: Iterable[Request], after_step: Callable[[StepResult], None] = nothing
) -> dict[int, Generated]:
    """Add the requests together, step until nothing is left, and return what each sequence got."""
    for one in requests:
        engine.add(one)
    generated: dict[int, Generated] = {}
    while engine.has_work or engine.is_compiling:
        step = engine.step()
        for started in step.started:
            generated.setdefault(started.sequence_id, Generated()).num_cached = started.num_cached
        for sequence_id, token_id in zip(step.sequence_ids, step.token_ids, strict=True):
            generated[sequence_id].token_ids.append(token_id)
        for sequence_id, entry in step.logprobs.items():
            generated[sequence_id].logprobs.append(entry)
        for sequence_id, entries in step.prompt_logprobs.items():
            generated[sequence_id].prompt_logprobs += entries
        for end in step.finished:
            one = generated.setdefault(end.sequence_id, Generated())
            assert not one.reason, "ended twice"
            one.reason, one.stop_token_id, one.error = end.reason, end.stop_token_id, end.error
        after_step(step)
    assert engine.stats().num_blocks_used == 0
    return generated


def alone(engine: Engine, prompt_ids: list[int], params: SamplingParams, **fields: Any) -> Generated:
    """One sequence with the engine to itself."""
    (generated,) = run(engine, [request(prompt_ids, params, **fields)]).values()
    return generated


def neighbours(count: int, first_id: int = 1000) -> list[Request]:
    """Requests of every kind: greedy and sampled, seeded and not, penalised, with log-probabilities, long and short."""
    kinds = [
        SamplingParams(max_tokens=30, temperature=0.0),
        SamplingParams(max_tokens=20, seed=3),
        SamplingParams(max_tokens=9, temperature=1.7, top_p=0.8, seed=42),
        SamplingParams(max_tokens=25, top_k=7, repetition_penalty=1.3, logprobs=5),
        SamplingParams(max_tokens=12, temperature=0.0, frequency_penalty=0.7, prompt_logprobs=2),
        SamplingParams(max_tokens=17, min_p=0.1, logit_bias=((9, 4.0),), min_tokens=5),
    ]
    return [
        request(prompt(3 + 5 * i, seed=100 + i), kinds[i % len(kinds)], sequence_id=first_id + i) for i in range(count)
    ]
