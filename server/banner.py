"""What the server prints once it is ready."""

from collections.abc import Mapping

from model.description import DraftInfo, ModelInfo
from server.settings import Settings
from server.version import VERSION


def banner(settings: Settings, info: ModelInfo, address: tuple[str, int], start_s: Mapping[str, float]) -> str:
    """What is served where, and a line to paste. `address` is what the server listens on.

    `start_s`: the seconds of the start by its phases.
    """
    url = _url(*address) + settings.root_path
    key = ' -H "Authorization: Bearer YOUR-KEY"' if settings.api_key else ""
    quantized = "" if info.quantization == "none" else f" with {info.quantization} weights"
    num_tokens = info.num_blocks * info.block_size
    proved = ", ".join(check.part for check in info.checks if check.is_used)
    rows = {
        "model": f"{info.architecture}, {_count(info.num_parameters)} parameters ({_size(info.weights_bytes)})",
        "computes": f"in {info.dtype}{quantized} on {info.device}, {info.attention} attention, {info.kernels}",
        "context": f"{info.max_model_len:,} tokens",
        "batch": f"up to {info.max_num_seqs:,} sequences and {info.max_step_tokens:,} tokens a step",
        "KV cache": f"{info.num_blocks:,} blocks of {info.block_size} = {num_tokens:,} tokens in "
        f"{info.kv_cache_dtype} ({_size(info.kv_cache_bytes)}), "
        f"{num_tokens // info.max_model_len:,} sequences of full length",
        **({} if info.draft is None else {"drafts": _draft(info.draft)}),
        **({"proved": f"{proved}, at the start"} if proved else {}),
        **({} if info.decode_mbu is None else {"decode": f"at {info.decode_mbu:.0%} of the memory's bandwidth"}),
        "start": f"{sum(start_s.values()):.1f} s: " + ", ".join(f"{name} {s:.1f}" for name, s in start_s.items()),
        "API": f"{url}/v1"
        + (f", answered by {settings.api_processes} processes" if settings.api_processes > 1 else ""),
        # A browser sends no bearer token.
        "docs": f"{url}/docs" + (f", with the key: curl{key} {url}/docs > docs.html" if key else ""),
    }
    lines = [f"  {name:<10}{text}" for name, text in rows.items()]
    names = ", ".join(settings.served_model_name or (settings.model,))
    return f"""
nexttoken {VERSION} serves {names}
{chr(10).join(lines)}

  curl {url}/v1/completions{key} -H 'Content-Type: application/json' \\
    -d '{{"prompt": "Once upon a time", "max_tokens": 60, "stream": true}}'
"""


def _draft(draft: DraftInfo) -> str:
    weights, cache = _size(draft.weights_bytes), _size(draft.kv_cache_bytes)
    return f"by {draft.architecture}, {_count(draft.num_parameters)} parameters ({weights}; its KV cache {cache})"


def _url(host: str, port: int) -> str:
    if host in ("0.0.0.0", "::", "127.0.0.1", "::1"):
        host = "localhost"
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _count(number: int) -> str:
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return str(number)


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.1f} GiB" if num_bytes >= 2**30 else f"{num_bytes / 2**20:.1f} MiB"
