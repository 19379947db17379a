"""Fills a Transformer's parameters from the safetensors files of a checkpoint."""

import json
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from model.errors import BadConfig, UnsupportedModel, WeightMismatch
from model.families.family import Family
from model.families.fields import Fields
from model.families.registry import FAMILIES
from model.families.weights import Weight
from model.transformer import Transformer

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
STORED_DTYPES = ("F32", "F16", "BF16")
MAX_HEADER_BYTES = 100_000_000
"""The bound of the safetensors library."""
READERS = 4
"""How many tensors are copied at once: a disk serves several faster than one after the other, and while a layer is
packed the next ones are read."""
PICKLED_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt")


def load_weights(
    model: Transformer,
    directory: Path,
    progress: Callable[[float], None] = lambda fraction: None,
    filled: Callable[[str], None] = lambda parameter: None,
) -> None:
    """Copies every tensor of the checkpoint into the model, a few at a time, converted to the model's dtype.

    Names, shapes and dtypes of all files are checked before the first copy. Calls `progress` with the fraction
    loaded, from 0 to 1, and `filled` with a parameter's name once all of it is there: from then on the loader no longer
    holds it. Raises WeightMismatch, naming file and tensor, unless the files hold exactly the tensors of
    the model's family and config; UnsupportedModel where the only weights are pickled.
    """
    family = FAMILIES[model.config.architecture]
    paths = _weight_files(directory)
    weights = {path: list(_checked_weights(path, family, model)) for path in paths}
    _check_complete(weights, family, model)
    total = sum(weight.num_elements for in_file in weights.values() for weight in in_file)
    parameters = dict(model.named_parameters())
    num_missing = Counter(weight.parameter for in_file in weights.values() for weight in in_file)
    done = 0
    progress(0.0)
    for weight in _copied(weights, parameters):
        num_missing[weight.parameter] -= 1
        if num_missing[weight.parameter] == 0:
            del parameters[weight.parameter]
            filled(weight.parameter)
        done += weight.num_elements
        progress(done / total)


def _copied(weights: dict[Path, list[Weight]], parameters: Mapping[str, Tensor]) -> Iterator[Weight]:
    """Copy each into its parameter, a few at a time, and yield them in order, once they are there."""
    underway: deque[tuple[Weight, Future[None]]] = deque()
    readers = ThreadPoolExecutor(READERS)
    try:
        for path, weight in ((path, weight) for path, in_file in weights.items() for weight in in_file):
            if len(underway) == READERS:
                yield _first(underway)
            underway.append((weight, readers.submit(_copy, path, weight, parameters[weight.parameter])))
        while underway:
            yield _first(underway)
    finally:
        readers.shutdown(cancel_futures=True)


def _first(underway: deque[tuple[Weight, Future[None]]]) -> Weight:
    weight, copied = underway.popleft()
    copied.result()
    return weight


def _copy(path: Path, weight: Weight, parameter: Tensor) -> None:
    # The file is opened for each tensor: a mapping that lives on keeps every page it has touched in this process,
    # which would count as a second copy of the model against a container's limit. So only READERS tensors are mapped.
    with _opened(path) as file:
        rows = parameter[weight.first_row : weight.first_row + weight.shape[0]]
        rows.copy_(file.get_tensor(weight.name))


def _weight_files(directory: Path) -> list[Path]:
    """The single file, or the shards that the index names, as transformers looks for them."""
    if (directory / SINGLE_FILE).exists():
        return [directory / SINGLE_FILE]
    if (directory / INDEX_FILE).exists():
        return _shards(directory / INDEX_FILE)
    pickled = sorted(path.name for path in directory.iterdir() if path.suffix in PICKLED_SUFFIXES)
    if pickled:
        raise UnsupportedModel(
            f"{directory / pickled[0]}: weights are read from safetensors alone, as a pickle can run code; convert "
            'where you trust the file: python -c "from transformers import AutoModelForCausalLM as M; '
            f"M.from_pretrained('{directory}').save_pretrained('{directory}')\""
        )
    raise WeightMismatch(f"{directory}: no {SINGLE_FILE} and no {INDEX_FILE}")


def _shards(index: Path) -> list[Path]:
    names = set(Fields.of_file(index).section("weight_map").values.values())
    for name in names:
        # A path would let a checkpoint choose files anywhere on this machine.
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise BadConfig(f"{index}: weight_map names {str(name)[:60]!r}, expected a .safetensors file beside it")
    paths = [index.parent / name for name in sorted(names)]
    for path in paths:
        if not path.exists():
            raise WeightMismatch(f"{path}: missing, though {index.name} names it")
    return paths


def _checked_weights(path: Path, family: Family, model: Transformer) -> Iterator[Weight]:
    """The model's tensors in one file, in the order of their bytes. Raises WeightMismatch for any that don't fit."""
    expected = {weight.name: weight for weight in family.weights(model.config)}
    with _opened(path) as file:
        for name in file.offset_keys():
            if name not in expected:
                if family.is_ignorable(name, model.config):
                    continue
                raise WeightMismatch(f"{path}: tensor {name[:200]!r} has no place in this architecture")
            stored = file.get_slice(name)
            shape, dtype = tuple(stored.get_shape()), stored.get_dtype()
            if shape != expected[name].shape:
                raise WeightMismatch(
                    f"{path}: tensor {name} has shape {list(shape)}, config.json makes it {list(expected[name].shape)}"
                )
            if dtype not in STORED_DTYPES:
                raise WeightMismatch(f"{path}: tensor {name} is {dtype}, expected one of {', '.join(STORED_DTYPES)}")
            yield expected[name]


def _check_complete(weights: dict[Path, list[Weight]], family: Family, model: Transformer) -> None:
    seen: dict[str, Path] = {}
    for path, in_file in weights.items():
        for weight in in_file:
            if weight.name in seen:
                raise WeightMismatch(f"{path}: tensor {weight.name} is in {seen[weight.name].name} as well")
            seen[weight.name] = path
    for weight in family.weights(model.config):
        if weight.name not in seen:
            raise WeightMismatch(f"{', '.join(str(path) for path in weights)}: tensor {weight.name} is missing")


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise WeightMismatch(f"{path}: {_first_cut_tensor(path) or error}") from error


def _first_cut_tensor(path: Path) -> str | None:
    """What a file that safetensors refused lost, where that can be told: it was most likely not copied to its end."""
    num_bytes = path.stat().st_size
    with path.open("rb") as file:
        header_bytes = int.from_bytes(file.read(8), "little")
        if header_bytes > min(num_bytes - 8, MAX_HEADER_BYTES):
            return f"cut short at {num_bytes} bytes, within its header, or not safetensors"
        header = file.read(header_bytes)
    try:
        tensors = json.loads(header)
        ends = {name: tensors[name]["data_offsets"][1] for name in tensors if name != "__metadata__"}
        cut = {name: end for name, end in ends.items() if end > num_bytes - 8 - header_bytes}
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    first = min(cut, key=lambda name: cut[name], default=None)
    return None if first is None else f"cut short at {num_bytes} bytes, within tensor {first[:200]!r}"
