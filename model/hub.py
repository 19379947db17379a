"""Finds a checkpoint's directory: on this machine, or on the Hugging Face hub."""

from pathlib import Path

from model.errors import ModelNotFound

FILES = ["*.json", "model*.safetensors", "*.jinja", "tokenizer.model", "merges.txt"]
"""What we read. Never code, never pickled weights, nor the second copy of the weights that some repositories hold."""


def resolve(model: str, revision: str | None = None) -> Path:
    """The directory `model` names, or a snapshot of the hub repository of that name, downloaded where it's not cached.

    `revision` is a branch, tag or commit of the hub repository. Token, cache directory, offline mode and endpoint are
    huggingface_hub's own: HF_TOKEN, HF_HOME, HF_HUB_OFFLINE, HF_ENDPOINT. Raises ModelNotFound.
    """
    directory = Path(model).expanduser()
    if directory.is_dir():
        if revision is not None:
            raise ModelNotFound(f"{model} is a directory on this machine, so it has no revision {revision!r}")
        return directory
    if directory.exists():
        raise ModelNotFound(f"{model} is a file; give the directory that holds config.json and the weights")
    if directory.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
        raise ModelNotFound(f"{model}: there is no such directory")
    return _snapshot(model, revision)


def _snapshot(model: str, revision: str | None) -> Path:
    # Only here: the import costs a third of a second that a local model shouldn't pay.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=FILES))
    except HFValidationError as error:
        raise ModelNotFound(f"{model}: neither a directory here nor a name that the hub allows") from error
    except LocalEntryNotFoundError as error:
        raise ModelNotFound(
            f"{model}: not a directory here, not in the hub's cache, and the hub can't be reached"
        ) from error
    except HfHubHTTPError as error:
        raise ModelNotFound(f"{model}: {_first_line(error)}") from error
    except OSError as error:
        raise ModelNotFound(f"{model}: can't be downloaded: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    # The hub's errors go on with a request id and advice, over several lines.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[1:2] or lines[:1]) or type(error).__name__
