"""Compiles the CPU kernels:  python -m model.kernels.cpu.build

Needs g++ or clang++ and nothing else. Does nothing where the library is there and its sources are as they were.
"""

import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
BUILD_DIR = HERE / "_build"
LIBRARY = BUILD_DIR / "nexttoken_cpu.so"
STAMP = BUILD_DIR / "stamp"
"""Says which sources and flags the library was made of."""

COMPILERS = ("g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast", "-Wall", "-Wextra", "-pthread")
_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mprefer-vector-width=512")
X86_LEVELS = {
    "avx2": ("-mavx2", "-mfma"),
    "avx512": _AVX512,
    "avx512bf16": (*_AVX512, "-mavx512bf16", "-mavx512vnni"),
}
ONCE = ("context.cpp", "dispatch.cpp", "layers.cpp")
EACH_LEVEL = ("linear.cpp", "attention.cpp", "sampling.cpp", "packing.cpp")


def main() -> int:
    """Build and say what was done in one line. A missing compiler is no error: the server then computes with torch."""
    if is_current():
        print(f"CPU kernels are up to date: {LIBRARY}")
        return 0
    compiler = next(filter(None, map(shutil.which, COMPILERS)), None)
    if compiler is None:
        print("CPU kernels not built, as there is no g++ or clang++: the server will compute with torch, more slowly")
        return 0
    try:
        build(compiler)
    except subprocess.CalledProcessError as error:
        print(f"CPU kernels not built, {compiler} failed:\n{error.stderr}", file=sys.stderr)
        return 1
    print(f"CPU kernels built: {LIBRARY}")
    return 0


def is_current() -> bool:
    """Whether the library is there, made of today's sources with today's flags."""
    return LIBRARY.exists() and STAMP.exists() and STAMP.read_text() == _fingerprint()


def build(compiler: str) -> None:
    """Compile and link. Raises CalledProcessError with the compiler's words."""
    BUILD_DIR.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD_DIR) as directory, ThreadPoolExecutor(os.cpu_count()) as pool:
        jobs: list[tuple[str, str | None, tuple[str, ...]]] = [(source, None, ()) for source in ONCE]
        jobs += [(source, level, flags) for source in EACH_LEVEL for level, flags in levels().items()]
        objects = list(pool.map(lambda job: _compile(compiler, Path(directory), *job), jobs))
        linked = Path(directory) / LIBRARY.name
        _run([compiler, "-shared", "-pthread", "-o", str(linked), *map(str, objects)])
        STAMP.unlink(missing_ok=True)
        # A process that has the old one loaded keeps it.
        linked.replace(LIBRARY)
        STAMP.write_text(_fingerprint())


def levels() -> dict[str, tuple[str, ...]]:
    """The instruction sets to compile for on this kind of processor, with their flags."""
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return {"plain": (), **(X86_LEVELS if is_x86 else {})}


def _compile(compiler: str, directory: Path, source: str, level: str | None, flags: tuple[str, ...]) -> Path:
    target = directory / f"{source}.{level}.o"
    definition = [f"-DLEVEL={level}"] if level else []
    _run([compiler, *FLAGS, *flags, *definition, "-c", str(HERE / source), "-o", str(target)])
    return target


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def _fingerprint() -> str:
    digest = hashlib.sha256(repr((FLAGS, levels())).encode())
    for path in sorted([*HERE.glob("*.cpp"), *HERE.glob("*.h")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
