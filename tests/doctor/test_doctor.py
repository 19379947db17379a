"""`nexttoken doctor` on this machine, end to end; what it says of other machines, from what they would tell it."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from model.attention.cpu import CpuAttention
from model.description import RunnerOptions
from server import command_line, doctor
from server.doctor import Finding

BUNDLED = Path(__file__).parents[2] / "model" / "demo" / "bundled"
OPTIONS = RunnerOptions(model_dir=str(BUNDLED), device="cpu", max_num_seqs=4, num_threads=1)


def lines(text: str) -> dict[str, str]:
    """What is said, by its subject; the mark of a line stays before it."""
    return {line[2:18].strip(): line[:2] + line[18:] for line in text.splitlines() if len(line) > 18}


def test_the_command_says_what_is_here_and_that_all_is_well():
    done = subprocess.run(
        [sys.executable, "-m", "server.cli", "doctor", "--max-num-seqs", "4"],
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert (done.returncode, done.stderr) == (0, "")
    said = lines(done.stdout)
    assert torch.__version__ in said["torch"]
    assert "to use" in said["cores"]
    assert "own kernels, " in said["computes"]
    assert said["own kernels"].startswith("  proved: mean difference")
    assert "MBU " in said["decode"]
    assert done.stdout.endswith("all is well\n")


def test_kernels_that_compute_something_else_are_a_fault(monkeypatch: pytest.MonkeyPatch, capsys):
    plan = CpuAttention.plan

    def of_a_shorter_context(self, slots, num_computed, num_new, block_tables):
        return plan(self, slots, np.maximum(num_computed - 1, 0), num_new, block_tables)

    monkeypatch.setattr(CpuAttention, "plan", of_a_shorter_context)
    assert doctor.doctor(OPTIONS) == 1
    out = capsys.readouterr().out
    assert lines(out)["own kernels"].startswith("! not proved: mean difference")
    assert "to be looked at: 1 of these lines" in out


def test_missing_kernels_are_a_fault_with_their_remedy(monkeypatch: pytest.MonkeyPatch, capsys):
    reason = "the CPU kernels are not built (python -m model.kernels.cpu.build)"
    monkeypatch.setattr("model.choices.unavailable", lambda: reason)
    monkeypatch.setattr(doctor, "unavailable", lambda: reason)
    assert doctor.doctor(OPTIONS) == 1
    assert lines(capsys.readouterr().out)["computes"].startswith(f"! torch, as {reason}")


def test_rounded_weights_are_measured_and_not_judged():
    with_int4 = RunnerOptions(model_dir=str(BUNDLED), device="cpu", quantization="int4", max_num_seqs=4, num_threads=1)
    (finding,) = [finding for finding in doctor._with_model(with_int4) if finding.what == "own kernels"]
    assert "for the most part by rounding to int4: not judged" in finding.text
    assert not finding.is_fault


def test_a_gpu_that_is_not_there_is_a_fault_after_all_that_is(capsys):
    code = doctor.doctor(RunnerOptions(model_dir=str(BUNDLED), device="cuda"))
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    assert code == 1
    said = lines(capsys.readouterr().out)
    assert said["model"].startswith("! device 'cuda' was asked for")
    assert "cores" in said


def test_a_gpu_is_named_with_its_driver(tmp_path: Path):
    path = tmp_path / "driver" / "nvidia"
    path.mkdir(parents=True)
    (path / "version").write_text(
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  Sun Jul 27\nGCC version:\n"
    )
    properties = SimpleNamespace(name="NVIDIA H100 80GB HBM3", total_memory=80 * 2**30, major=9, minor=0)
    finding = doctor._gpu(0, properties, doctor._driver(tmp_path))
    assert finding.what == "cuda:0"
    assert finding.text.startswith("NVIDIA H100 80GB HBM3, 80 GiB, compute capability 9.0; driver 580.65.06, CUDA ")
    assert doctor._driver(tmp_path / "nothing") == "unknown"


def test_what_is_not_known_is_not_guessed(tmp_path: Path):
    findings: dict[str, Finding] = {finding.what: finding for finding in doctor._machine(tmp_path)}
    assert findings["processor"].text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["no/such/model"], "nexttoken doctor: no/such/model: "),
        (["--device", "cpu", "--quantization", "int3"], "nexttoken doctor: --quantization: "),
        (["--prot", "1"], "nexttoken doctor: unknown --prot"),
    ],
)
def test_wrong_arguments_are_one_line_and_exit_code_2(arguments, message, capsys):
    with pytest.raises(SystemExit) as end:
        command_line.main(["doctor", *arguments])
    assert end.value.code == 2
    assert capsys.readouterr().err.startswith(message)
