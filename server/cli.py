"""The process of a command: no traceback at Ctrl-C, nor where what reads its output has gone away."""

import os
import signal
import sys
from types import FrameType
from typing import NoReturn

# As a shell reports an end by SIGINT and by SIGPIPE.
EXIT_INTERRUPTED = 130
EXIT_NOBODY_READS = 141


def main() -> NoReturn:
    """Run the command that the process's arguments name. `nexttoken serve` answers Ctrl-C itself once it has begun."""
    signal.signal(signal.SIGINT, _end)
    try:
        try:
            # Imported here: Ctrl-C may come while this is loaded, too.
            from server import command_line

            command_line.main()
        finally:
            print(end="", flush=True)
    except BrokenPipeError:
        # What is still in the buffer would fail once more at the interpreter's end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_NOBODY_READS)


def _end(number: int, frame: FrameType | None) -> None:
    """End at once; child processes end with their input. An exception may be lost where C code imports something."""
    os._exit(EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
