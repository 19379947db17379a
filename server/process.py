"""What a process that serves sets up for itself as a whole."""

import gc
import logging
import sys

# While a thread reads a large body, the event loop asks for the interpreter after each call to the system, and waits
# this long for it, several times for one token. With Python's own 5 ms a body of 1 MB made pauses in every stream.
_SWITCH_INTERVAL_S = 0.0005


def set_up_logging(level: str, process: str = "") -> None:
    """Lines to standard error. `process`: which of several processes a line is from."""
    parts = ("%(asctime)s", "%(levelname)s", process, "%(name)s", "%(message)s")
    logging.basicConfig(level=level.upper(), format=" ".join(filter(None, parts)), stream=sys.stderr)
    # What uvicorn tells of its start and end, our own lines tell better.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)


def keep_pauses_short() -> None:
    """Bound what one request's work in this process can hold up the event loop."""
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    # What was made so far stays; going through it again, whenever a large body has made many objects, took 0.2 s.
    gc.collect()
    gc.freeze()
