"""Which schemas of the official JSON-Schema-Test-Suite the grammar engines take, and whether they take them right.

pip download --no-deps --no-binary :all: jsonschema==4.23.0, unpack it; then, in an environment with xgrammar (see
grammars.py): python benchmarks/schema_suite.py jsonschema-4.23.0/json/tests
"""

import itertools
import json
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.grammar_engines import ENGINES, Engine, Refused, accepts, byte_vocabulary
from model.grammar import Grammar

DRAFTS = {
    "draft7": "http://json-schema.org/draft-07/schema#",
    "draft2020-12": "https://json-schema.org/draft/2020-12/schema",
}
OUTCOMES = ["right", "narrow", "refused", "wrong"]
"""Right: accepts all valid instances and no invalid one. Narrow: no invalid one. Wrong: an invalid one."""
MAX_ORDERS = 64


def spellings(value: Any) -> Iterator[bytes]:
    """A value as JSON, with its members in any order: a grammar may insist on the schema's."""
    for ordered in itertools.islice(_orders(value), MAX_ORDERS):
        yield json.dumps(ordered, ensure_ascii=False).encode()
        yield json.dumps(ordered).encode()


def _orders(value: Any) -> Iterator[Any]:
    match value:
        case dict():
            for members in itertools.permutations(value.items()):
                for inner in itertools.product(*(list(itertools.islice(_orders(v), 6)) for _, v in members)):
                    yield dict(zip((name for name, _ in members), inner, strict=True))
        case list():
            for items in itertools.product(*(list(itertools.islice(_orders(item), 6)) for item in value)):
                yield list(items)
        case _:
            yield value


def outcome(engine: Engine, case: dict[str, Any], draft: str) -> str:
    """Of one schema with its instances."""
    schema = case["schema"]
    if isinstance(schema, dict):
        schema = {"$schema": DRAFTS[draft]} | schema
    try:
        compiled = engine.compile(Grammar("json_schema", json.dumps(schema)))
    except Refused:
        return "refused"
    is_taken = {
        test["description"]: any(accepts(engine, compiled, text) for text in spellings(test["data"]))
        for test in case["tests"]
    }
    if any(is_taken[test["description"]] and not test["valid"] for test in case["tests"]):
        return "wrong"
    return "right" if all(is_taken[test["description"]] for test in case["tests"] if test["valid"]) else "narrow"


def main(suite: Path) -> None:
    print(f"{'':26}" + "".join(f"{name:>9}" for name in OUTCOMES))
    for draft in DRAFTS:
        cases = [case for path in sorted((suite / draft).glob("*.json")) for case in json.loads(path.read_text())]
        for name, engine_type in ENGINES.items():
            engine = engine_type(byte_vocabulary())
            counts = Counter(outcome(engine, case, draft) for case in cases)
            print(f"{draft:14}{name:12}" + "".join(f"{counts[name]:9}" for name in OUTCOMES))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
