"""Where the server is, and how the checks of a Python client are run."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

BASE_URL = os.environ.get("BASE_URL", "http://localhost:8000/v1")
MODEL = os.environ.get("MODEL", "nexttoken-tiny")


def check(*features: Callable[[], Iterator[str]]) -> None:
    """Run the checks of each feature: they assert, then yield what has proved true, which is printed."""
    for feature in features:
        for claim in feature():
            print(f"{feature.__name__}: {claim}", flush=True)


class Caught:
    """What was raised in a block of `raises`."""

    error: Any = None


@contextmanager
def raises(kind: type[Exception]) -> Iterator[Caught]:
    """Fails unless the block raises this."""
    caught = Caught()
    try:
        yield caught
    except kind as error:
        caught.error = error
    assert caught.error is not None, f"no {kind.__name__}"
