"""How child processes are started, and how they learn of their parent's end."""

import ctypes
import os
import signal
import sys
from threading import Thread

_PR_SET_PDEATHSIG = 1


def child_command(module: str, *arguments: str) -> list[str]:
    """What runs a module of ours in another process of this interpreter."""
    # -P: no import from the working directory, which may be a folder of somebody's models.
    return [sys.executable, "-P", "-m", module, *arguments]


def end_with_parent() -> None:
    """Live exactly as long as the parent wants: not past its death, and not shorter when a terminal or a service
    manager signals the whole group, since the parent still has streams to finish then."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    die_with_parent()
    exit_at_end_of_input()


def die_with_parent() -> None:
    """On Linux, be killed at the parent's death."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def exit_at_end_of_input() -> None:
    """From now on end this process as soon as its standard input does, whose other end the parent alone holds."""

    def watch() -> None:
        # Not sys.stdin, whose lock the interpreter wants at its own end.
        while os.read(0, 1024):
            pass
        os._exit(0)

    Thread(target=watch, name="parent-watch", daemon=True).start()
