"""Main of a process that compiles grammars of strangers: it may run out of time, memory or stack, and nobody else does.

    python -m server.grammar.child

On its standard input come a Vocabulary, then one Grammar at a time, each as msgpack after its length in four bytes. It
answers each with an Answer; the first one says that it is ready. It ends when its input does, or with its last answer.
"""

import resource
import signal
import sys
import threading
from pathlib import Path
from typing import BinaryIO

import msgspec

from model.constraint import Compiler, GrammarError
from model.grammar import Grammar, Verdict, Vocabulary
from server.child import die_with_parent
from server.grammar.frames import Answer, frame, read_frames

MAX_MEMORY_BYTES = 2 * 2**30
# Less than the worker's threads have, which compile what passed here.
STACK_BYTES = 8 * 2**20
# What it has grown to by then it doesn't give back: the next grammar gets a new process.
MAX_RESIDENT_BYTES = 512 * 2**20


def main() -> None:
    """Answer until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY_BYTES, MAX_MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    die_with_parent()
    threading.stack_size(STACK_BYTES)
    answering = threading.Thread(target=serve, args=(sys.stdin.buffer, sys.stdout.buffer))
    answering.start()
    answering.join()


def serve(questions: BinaryIO, answers: BinaryIO) -> None:
    """Read grammars and write what compiling each of them said."""
    frames = read_frames(questions)
    compiler = Compiler(msgspec.msgpack.decode(next(frames), type=Vocabulary))
    answers.write(frame(Answer(Verdict())))
    answers.flush()
    for data in frames:
        verdict = judge(compiler, msgspec.msgpack.decode(data, type=Grammar))
        answer = Answer(verdict, is_last=_resident_bytes() > MAX_RESIDENT_BYTES)
        answers.write(frame(answer))
        answers.flush()
        if answer.is_last:
            return


def _resident_bytes() -> int:
    """What it takes now. Not the most it ever took: that begins with what the parent had when it forked."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:  # no Linux
        return 0
    return pages * resource.getpagesize()


def judge(compiler: Compiler, grammar: Grammar) -> Verdict:
    """What compiling this grammar says."""
    try:
        constraint = compiler.compile(grammar)
        compiler.try_out(constraint)
        return Verdict(warnings=constraint.warnings)
    except GrammarError as error:
        return Verdict(error=str(error))
    except (ValueError, RecursionError, MemoryError) as error:
        return Verdict(error=f"it can't be compiled ({type(error).__name__})")


if __name__ == "__main__":
    main()
