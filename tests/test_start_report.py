"""What the operator is told of what the start has proved, and of what it has not."""

import logging

import pytest

from model.description import Check, ModelInfo
from server.banner import banner
from server.service import warn_of_what_is_off
from server.settings import Settings

INFO = ModelInfo(
    architecture="LlamaForCausalLM",
    num_parameters=8 * 10**9,
    dtype="bfloat16",
    device="cuda:0",
    attention="paged",
    checks=[
        Check("CUDA graphs", False, "it failed: RuntimeError: out of luck"),
        Check("overlapped steps", True, "the same tokens as one step after the other"),
    ],
    decode_mbu=0.734,
    vocab_size=128256,
    max_model_len=8192,
    max_num_seqs=256,
    max_step_tokens=8192,
    block_size=16,
    kv_cache_dtype="float32",
    num_blocks=10000,
    eos_token_ids=[2],
    bos_token_id=1,
    weights_bytes=16 * 10**9,
    kv_cache_bytes=20 * 10**9,
)


def test_the_banner_names_what_was_proved_and_the_speed_reached():
    text = banner(Settings(), INFO, ("127.0.0.1", 8000), {"loading weights": 1.24, "warming up": 0.5})
    assert "proved    overlapped steps, at the start" in text
    assert "decode    at 73% of the memory's bandwidth" in text
    assert "= 160,000 tokens in float32 (18.6 GiB)" in text
    assert "CUDA graphs" not in text
    assert "start     1.7 s: loading weights 1.2, warming up 0.5" in text


@pytest.mark.parametrize(("keys", "said"), [((), ""), (("k",), ', with the key: curl -H "Authorization: Bearer ')])
def test_the_banner_says_how_to_read_the_docs_with_a_key(keys: tuple[str, ...], said: str):
    text = banner(Settings(api_key=keys), INFO, ("127.0.0.1", 8000), {})
    (line,) = (line for line in text.splitlines() if line.startswith("  docs"))
    assert line.removeprefix("  docs      http://localhost:8000/docs").startswith(said)
    assert line.endswith("/docs > docs.html" if keys else "/docs")


def test_what_is_switched_off_is_one_warning_each(caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING):
        warn_of_what_is_off(INFO)
    (record,) = caplog.records
    assert record.getMessage() == (
        "event=switched_off what='CUDA graphs' reason='it failed: RuntimeError: out of luck'"
    )
