"""Every setting, once: its flag, its NEXTTOKEN_* variable, its default, its range and its help."""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

import yaml
from pydantic import ByteSize, Field, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from model.description import Kernels, KvCacheDtype, Quantization

BUNDLED_MODEL = "nexttoken-tiny"


Several = Annotated[tuple[str, ...], NoDecode]
"""A flag given once for each value; commas between them in a variable."""


class Settings(BaseSettings):
    """Serve a model over HTTP. A flag goes before its variable, that before the file, that before the default."""

    model_config = SettingsConfigDict(env_prefix="NEXTTOKEN_", env_ignore_empty=True, extra="forbid", frozen=True)

    model: str = Field(
        BUNDLED_MODEL, description="Directory or Hugging Face id of the model; without one, the tiny bundled model"
    )
    revision: str | None = Field(None, description="Branch, tag or commit of a Hugging Face model")
    served_model_name: Several = Field(
        (), description="Name that requests use; give it several times for aliases. Default: the model as given"
    )
    host: str = Field("127.0.0.1", description="Address to listen on; 0.0.0.0 for all of this machine's")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one")
    api_key: Several = Field(
        (), description="Key that clients must send as a bearer token; give it several times for several keys"
    )
    root_path: str = Field("", description="Path prefix that a proxy in front strips")
    allowed_origins: Several = Field(
        (), description="Web origins that browsers may call from; several by repetition, * for any"
    )

    device: str = Field("auto", description="cpu, cuda or cuda:N; auto takes a GPU where there is one")
    dtype: str = Field(
        "auto", description="float32, bfloat16 or float16; auto takes what is fastest for the model on the device"
    )
    quantization: Quantization = Field(
        "none",
        description="Round weights while they load: int8 to half of bfloat16's size, int4 to under a third, "
        "for speed and memory at some cost in quality; needs the CPU kernels",
    )
    kernels: Kernels = Field(
        "auto",
        description="auto computes with our own kernels, on a CPU where they are built; torch does without them, "
        "to rule them out when hunting a fault",
    )
    max_model_len: int | None = Field(None, ge=2, description="Longest context in tokens. Default: the model's own")
    max_num_seqs: int = Field(256, ge=1, le=4096, description="Most sequences that run at once")
    max_num_batched_tokens: int | None = Field(
        None,
        ge=1,
        description="Most tokens in one step: smaller, smoother streams; larger, more throughput. "
        "Default: 512 on a CPU, 8192 on a GPU",
    )
    block_size: Literal[8, 16, 32, 64, 128] = Field(16, description="Tokens in one block of the KV cache")
    kv_cache_dtype: KvCacheDtype = Field(
        "auto",
        description="Number format of the KV cache: auto is the model's own; fp8 (e4m3) takes half of the memory of 16 "
        "bits at some cost in quality, on a GPU, and on a CPU with --kernels torch",
    )
    kv_cache_memory_bytes: ByteSize | None = Field(
        None,
        description="Memory for the KV cache, such as 4GiB. Default: on a GPU what the next setting leaves, "
        "on a CPU a quarter of the free memory, and never more than the sequences can fill",
    )
    gpu_memory_utilization: float = Field(
        0.9, gt=0, le=1, description="Share of the GPU's memory that weights, steps and KV cache may take together"
    )
    speculation: bool = Field(
        True, description="Guess tokens from the text so far and verify several in one step where that is faster"
    )
    draft_model: str | None = Field(
        None,
        description="Directory or Hugging Face id of a smaller model with the same tokens, which guesses for this one "
        "where its text doesn't; takes memory for its own weights and cache",
    )
    enable_prefix_caching: bool = Field(True, description="Reuse the KV cache of prompts that begin alike")
    num_threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Threads to compute with on a CPU. Default: the cores that this container may use, but one for a "
        "model whose weights take 16 MiB or less",
    )

    tool_call_parser: Literal["auto", "hermes", "llama3_json", "mistral", "mistral_array", "nexttoken", "pythonic"] = (
        Field("auto", description="How the model writes tool calls; auto reads that from its chat template")
    )
    reasoning_parser: Literal["auto", "none", "think", "mistral", "seed_oss"] = Field(
        "auto", description="Which tags the model writes around its thoughts; auto reads that from its chat template"
    )

    api_processes: int = Field(
        1,
        ge=1,
        le=64,
        description="Processes that answer HTTP, for a GPU with very many streams or for many large bodies; "
        "with several, one more stands between them and the model",
    )
    max_waiting: int = Field(
        1024, ge=0, description="Most sequences that wait for their turn; beyond that requests get 429"
    )
    max_choices: int = Field(128, ge=1, le=128, description="Most choices (n, best_of) of one request")
    max_logprobs: int = Field(20, ge=0, le=100, description="Most alternatives listed with log-probabilities")
    max_body_bytes: ByteSize = Field(ByteSize(32 << 20), ge=1024, description="Largest request body, such as 32MiB")
    strict_fields: bool = Field(False, description="Refuse request fields that nobody knows instead of warning")
    metrics_open: bool = Field(False, description="Serve /metrics without a key although keys are set")
    keep_alive_s: int = Field(
        75, ge=1, description="Seconds an idle connection stays open; more than a proxy in front keeps its own"
    )
    stream_resume_s: float = Field(
        60,
        ge=0,
        le=3600,
        description="Seconds that a stream asked for with x-resumable goes on, or stays readable, without its client; "
        "0 turns that off",
    )
    store_path: Path | None = Field(
        None, description="SQLite file for chats that clients ask to store; without it such requests are refused"
    )
    drain_timeout_s: float = Field(
        60, ge=0, description="After SIGTERM, seconds that running requests may take to finish"
    )
    hang_timeout_s: float = Field(
        120, gt=0, description="Seconds of silence after which a worker with work is taken for dead"
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="How much to log")

    @model_validator(mode="after")
    def _check_step(self) -> Self:
        if self.max_num_batched_tokens is not None and self.max_num_batched_tokens < self.max_num_seqs:
            raise ValueError(
                f"--max-num-batched-tokens {self.max_num_batched_tokens} is less than --max-num-seqs "
                f"{self.max_num_seqs}: a step holds a token of each sequence; lower the latter too"
            )
        return self

    @field_validator("block_size", mode="before")
    @classmethod
    def _read_number(cls, value: Any) -> Any:
        """Flags and variables are text, which pydantic takes for none of a list of numbers."""
        return int(value) if isinstance(value, str) and value.isascii() and value.isdecimal() else value

    @field_validator("api_key", "served_model_name", "allowed_origins", mode="before")
    @classmethod
    def _split_commas(cls, value: Any) -> Any:
        """A variable or a file may hold several values with commas between."""
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value


def read_settings(flags: Mapping[str, Any], file: Path | None = None) -> Settings:
    """The settings from flags (by field name), NEXTTOKEN_* variables and a YAML or TOML file, in this order of rank.

    Raises pydantic's ValidationError for values that don't fit, and OSError or ValueError for an unreadable file.
    """
    from_file = {} if file is None else _read_file(file)
    variables = {name for name in Settings.model_fields if variable(name) in os.environ}
    return Settings(**{name: value for name, value in from_file.items() if name not in variables} | dict(flags))


def unknown_variables() -> list[str]:
    """Variables that look like settings and are none: typing errors, or what Kubernetes sets for a service's name."""
    known = {variable(name) for name in Settings.model_fields}
    return sorted(name for name in os.environ if name.startswith(variable("")) and name not in known)


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return f"NEXTTOKEN_{name.upper()}"


def value_kind(field: FieldInfo) -> Any:
    """The type of a setting, without its None."""
    annotation = field.annotation
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (part for part in get_args(annotation) if part is not NoneType)
    return annotation


def _what(error: Exception) -> str:
    """In one line; yaml tells of places in a "<unicode string>"."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{error.problem} (line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1})"
    return " ".join(str(error).split())


def _read_file(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text()
        values = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} is neither YAML nor (as *.toml) TOML: {_what(error)}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold settings by name")
    return {str(name).replace("-", "_"): value for name, value in values.items()}
