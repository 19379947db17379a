"""How a child process learns of its parent's end."""

import os
from threading import Thread


def exit_at_end_of_input() -> None:
    """From now on end this process as soon as its standard input does, whose other end the parent alone holds."""

    def watch() -> None:
        # Not sys.stdin, whose lock the interpreter wants at its own end.
        while os.read(0, 1024):
            pass
        os._exit(0)

    Thread(target=watch, name="parent-watch", daemon=True).start()
