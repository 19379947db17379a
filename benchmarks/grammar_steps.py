"""What a form of the text costs in a decode step: sixteen sequences with and without one, in turn.

python benchmarks/grammar_steps.py [MODEL_DIR]    without one, the bundled model
"""

import json
import statistics
import sys
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from model.batch import SamplingParams
from model.build import build_runner
from model.constraint import Compiler, Constraint
from model.description import RunnerOptions
from model.gbnf import lark_from_gbnf
from model.grammar import Grammar, Vocabulary
from model.runner import ModelRunner
from server.engine.scheduler import Scheduler, SchedulerLimits
from server.engine.sequence import Sequence
from server.text.tokenizer import Tokenizer

BUNDLED = Path(__file__).parent.parent / "model" / "demo" / "bundled"
NUM_SEQS, PROMPT_LEN, OUTPUT_LEN = 16, 32, 200
NUM_ROUNDS, NUM_STEPS = 7, 150

CALL = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "count": {"type": "integer", "minimum": 0},
        "unit": {"enum": ["gram", "litre", "piece"]},
        "tags": {"type": "array", "items": {"type": "string"}, "minItems": 60},
    },
    "required": ["name", "count", "unit", "tags"],
    "additionalProperties": False,
}
FORMS = {
    "JSON schema, an object": Grammar("json_schema", json.dumps(CALL)),
    "JSON schema, a string of a length": Grammar(
        "json_schema", '{"type": "string", "minLength": 300, "maxLength": 900}'
    ),
    "any JSON object": Grammar("json_schema", '{"type": "object"}'),
    "choice": Grammar("regex", "|".join(f"choice {number}" + " very" * 80 for number in range(50))),
    "regex": Grammar("regex", "[a-z ]+"),
    "counted regex": Grammar("regex", "[a-z ]{500,}"),
    "counted words": Grammar("regex", "([a-z]+ ){100,300}"),
    "grammar in Lark": Grammar("lark", 'start: item ("," item)*\nitem: /[a-z]+/ | "(" start ")"'),
    "grammar in GBNF": Grammar("lark", lark_from_gbnf('root ::= item ("," item)*\nitem ::= [a-z]+ | "(" root ")"')),
}


def decode_steps(runner: ModelRunner, constraint: Constraint | None) -> Iterator[tuple[float, float]]:
    """Seconds by the clock and of the processor, of each step in which all decode; texts that end begin anew."""
    limits = SchedulerLimits(NUM_SEQS, 512, NUM_SEQS * (PROMPT_LEN + OUTPUT_LEN) // runner.block_size + NUM_SEQS, 16)
    scheduler, number, num_ended = Scheduler(limits), 0, NUM_SEQS
    while True:
        for _ in range(num_ended):
            params = SamplingParams(max_tokens=OUTPUT_LEN, temperature=1.0, seed=number)
            prompt = [number % 3000, *range(1, PROMPT_LEN)]
            scheduler.add(Sequence(number, prompt, len(prompt), params, frozenset({1}), constraint))
            number += 1
        batch = scheduler.schedule()
        started = time.perf_counter(), time.process_time()
        output = runner.run(batch)
        seconds = time.perf_counter() - started[0], time.process_time() - started[1]
        num_ended = len(scheduler.update(output).finished)
        if len(batch.slots) == NUM_SEQS and not batch.joins and all(count == 1 for count in batch.num_new):
            yield seconds


def main(model_dir: Path = BUNDLED) -> None:
    runner, _ = build_runner(RunnerOptions(model_dir=str(model_dir), max_num_seqs=NUM_SEQS), lambda phase, share: None)
    tokenizer = Tokenizer.load(model_dir)
    tokens = [tokenizer.token_bytes(token_id) for token_id in range(tokenizer.vocab_size)]
    assert tokenizer.eos_token_id is not None
    compiler = Compiler(Vocabulary(tokens, sorted(tokenizer.special_ids), [tokenizer.eos_token_id]))
    constraints = {name: compiler.compile(grammar) for name, grammar in FORMS.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ["no form", *FORMS]}
    for _ in range(NUM_ROUNDS):
        for name in times:
            steps = islice(decode_steps(runner, constraints.get(name)), NUM_STEPS)
            times[name].append(tuple(statistics.median(seconds) for seconds in zip(*steps, strict=True)))
    # The quietest round: other programs only ever add to it.
    quietest = {name: [min(rounds) for rounds in zip(*medians, strict=True)] for name, medians in times.items()}
    print(f"{'microseconds a step':36} {'clock':>6} {'processor':>17}")
    for name, seconds in quietest.items():
        columns = [
            f"{s * 1e6:6.0f} {(s / free - 1) * 100:+5.1f} %"
            for s, free in zip(seconds, quietest["no form"], strict=True)
        ]
        print(f"{name:36} {'   '.join(columns)}")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
