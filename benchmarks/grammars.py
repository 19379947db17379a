"""llguidance beside xgrammar, in turn: time to compile, time of a mask, and what hostile grammars do to them.

python -m venv xg && xg/bin/pip install xgrammar llguidance tokenizers pydantic msgspec jinja2
xg/bin/python benchmarks/grammars.py
"""

import json
import multiprocessing
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.grammar_engines import ENGINES, Engine, bundled_vocabulary, made_up_vocabulary, new_row
from model.grammar import Grammar, Vocabulary
from tests.constraint.hostile import bodies

NUM_ROUNDS = 3
# Of a hostile grammar: to compile it and begin a text.
MAX_S = 3.0
MAX_GROWTH_BYTES = 2 * 2**30
NUM_BEGUN = 16

_ADDRESS = {
    "type": "object",
    "properties": {
        "street": {"type": "string"},
        "city": {"type": "string"},
        "zip": {"type": "string", "pattern": "^[0-9]{5}$"},
    },
    "required": ["street", "city", "zip"],
    "additionalProperties": False,
}
_PERSON = {
    "$defs": {"Address": _ADDRESS},
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 80},
        "age": {"anyOf": [{"type": "integer", "minimum": 0, "maximum": 150}, {"type": "null"}]},
        "addresses": {"type": "array", "items": {"$ref": "#/$defs/Address"}},
    },
    "required": ["name", "age", "addresses"],
    "additionalProperties": False,
}
_CALL = {
    "type": "object",
    "properties": {
        "location": {"type": "string"},
        "unit": {"enum": ["celsius", "fahrenheit"]},
        "days": {"type": "integer"},
    },
    "required": ["location", "unit", "days"],
    "additionalProperties": False,
}
_TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "value": {"type": "number"},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}},
            },
            "required": ["value", "children"],
            "additionalProperties": False,
        }
    },
    "$ref": "#/$defs/node",
}
_COUNTRIES = [f"country {number}" for number in range(200)]
_HOME = {"street": "12 Long Lane", "city": "Münster", "zip": "48143"}
CASES: dict[str, tuple[str, object, object]] = {
    "tool arguments": ("json_schema", _CALL, {"location": "San Francisco, CA", "unit": "celsius", "days": 5}),
    "nested objects": ("json_schema", _PERSON, {"name": "Ada Miller", "age": 36, "addresses": [_HOME] * 3}),
    "enum of 200": ("json_schema", {"type": "array", "items": {"enum": _COUNTRIES}}, _COUNTRIES[::7]),
    "recursive": ("json_schema", _TREE, {"value": 1.5, "children": [{"value": -2, "children": []}] * 6}),
    "regex": ("regex", r"[A-Z][a-z]+ [A-Z][a-z]+, \d{3}-\d{4}", "Grace Hopper, 555-0199"),
    "counted regex": ("regex", "[a-z ]{100,500}", "once upon a time there was a small red bird " * 4),
}
"""By name: kind, grammar, a text of it."""


def grammar_of(kind: str, form: object) -> Grammar:
    return Grammar(kind, form if isinstance(form, str) else json.dumps(form))


def tokens_of(text: bytes, vocabulary: Vocabulary) -> Iterator[int]:
    """The longest token that fits, again and again."""
    ids = {token: token_id for token_id, token in enumerate(vocabulary.tokens) if token}
    while text:
        length = next(length for length in range(min(len(text), 32), 0, -1) if text[:length] in ids)
        yield ids[text[:length]]
        text = text[length:]


def mask_times(engine: Engine, grammar: Grammar, token_ids: list[int], row: np.ndarray) -> list[float]:
    """Processor seconds for the mask before each token and for taking it."""
    text, times, address = engine.start(engine.compile(grammar)), [], row.ctypes.data
    for token_id in token_ids:
        started = time.thread_time()
        text.write_mask(row, address)
        is_taken = text.take(token_id)
        times.append(time.thread_time() - started)
        assert is_taken, grammar
    return times


def compare_speed(name: str, vocabulary: Vocabulary) -> None:
    print(f"\n{name}, {len(vocabulary.tokens)} tokens; compile: first ms, again ms; mask and token: p50, p99, max us")
    times: dict[tuple[str, str], list[list[float]]] = {}
    for _ in range(NUM_ROUNDS):
        for engine_name, engine_type in ENGINES.items():
            engine = engine_type(vocabulary)
            for case, (kind, form, example) in CASES.items():
                grammar = grammar_of(kind, form)
                compiling = []
                for _ in range(2):
                    started = time.perf_counter()
                    engine.compile(grammar)
                    compiling.append((time.perf_counter() - started) * 1e3)
                example = example if isinstance(example, str) else json.dumps(example, ensure_ascii=False)
                token_ids = list(tokens_of(example.encode(), vocabulary))
                masks = mask_times(engine, grammar, token_ids, new_row(vocabulary))
                figures = [*compiling, *(np.percentile(masks, [50, 99, 100]) * 1e6)]
                times.setdefault((case, engine_name), []).append(figures)
    for (case, engine_name), rounds in sorted(times.items()):
        # The least of the rounds: other programs only ever add to it.
        first, again, p50, p99, most = np.min(rounds, axis=0)
        print(f"{case:16}{engine_name:12}{first:9.2f}{again:8.2f}{p50:9.1f}{p99:9.1f}{most:9.1f}")


def hostile_grammars() -> list[Grammar]:
    """As they come, without the limits of the server's door."""
    kinds = {"guided_json": "json_schema", "guided_regex": "regex", "guided_grammar": "lark"}
    found = []
    for body in bodies():
        for field, kind in kinds.items():
            if isinstance(form := body.get(field), str | dict):
                found.append(Grammar(kind, form if isinstance(form, str) else json.dumps(form)))
    return found


def begin(engine_name: str, vocabulary: Vocabulary, grammar: Grammar, result: Connection) -> None:
    """In a child: compile, and write the beginning of a text."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MAX_GROWTH_BYTES,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    engine, row, rng = ENGINES[engine_name](vocabulary), new_row(vocabulary), np.random.default_rng(0)
    result.send("ready")
    try:
        text = engine.start(engine.compile(grammar))
        for _ in range(NUM_BEGUN):
            text.write_mask(row, row.ctypes.data)
            allowed = np.flatnonzero(np.unpackbits(row, count=len(vocabulary.tokens), bitorder="little"))
            if text.is_complete or not allowed.size or not text.take(int(rng.choice(allowed))):
                break
        result.send("followed")
    except MemoryError:
        result.send("out of memory")
    except Exception:  # of many kinds, all of which the server answers with a 400
        result.send("refused")


def fate(engine_name: str, vocabulary: Vocabulary, grammar: Grammar) -> tuple[str, float]:
    """What became of a child with this grammar, and after how many seconds."""
    result, sender = multiprocessing.Pipe(duplex=False)
    child = multiprocessing.Process(target=begin, args=(engine_name, vocabulary, grammar, sender))
    child.start()
    sender.close()
    result.recv()
    started = time.perf_counter()
    try:
        outcome = result.recv() if result.poll(MAX_S) else f"more than {MAX_S:.0f} s"
    except EOFError:
        child.join()
        outcome = f"died of {signal.Signals(-child.exitcode).name}"
    seconds = time.perf_counter() - started
    child.kill()
    child.join()
    return outcome, seconds


def compare_safety(vocabulary: Vocabulary) -> None:
    grammars = hostile_grammars()
    print(f"\n{len(grammars)} hostile grammars, each in a process of its own")
    for engine_name in ENGINES:
        fates = [fate(engine_name, vocabulary, grammar) for grammar in grammars]
        slowest = max((seconds for outcome, seconds in fates if outcome in ("followed", "refused")), default=0.0)
        counts = ", ".join(f"{count} {outcome}" for outcome, count in Counter(o for o, _ in fates).most_common())
        print(f"{engine_name:12}{counts}; slowest answer {slowest:.2f} s")


if __name__ == "__main__":
    bundled = bundled_vocabulary()
    for label, its_vocabulary in (
        ("bundled", bundled),
        ("made up", made_up_vocabulary(49_152)),
        ("made up", made_up_vocabulary(128_256)),
    ):
        compare_speed(label, its_vocabulary)
    compare_safety(bundled)
