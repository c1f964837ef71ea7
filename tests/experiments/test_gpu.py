"""The GPU study: its arithmetic on drawn timelines, and all of it once on the stand-in."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from experiments import gpu
from experiments.gpu import Study, exactness, hidden_fraction, optimizer_jobs, report, run, write_report
from experiments.suite import prepare_within_budget
from experiments.workloads import WORKLOADS, GptSpec
from hydrasim.timeline import Span, Timeline
from tests.executor.devices.fake_cuda import FakeCudaDevice

ROOT = Path(__file__).resolve().parents[2]


def span(kind, start_s, end_s, device=0):
    lane = {"compute": "compute", "load": "h2d", "store": "d2h"}[kind]
    return Span(0, kind, device, lane, "A/F0#0", start_s, end_s)


def test_only_copy_seconds_under_compute_of_the_same_device_are_hidden():
    # gpu0 compute  . C C . C .
    # gpu0 h2d      L L . . . .     1 of 2 hidden
    # gpu0 d2h      . . S S S .     2 of 3 hidden
    # gpu1 h2d      . L . . . .     0 of 1: that compute is gpu0's
    spans = (
        span("compute", 1, 3), span("compute", 4, 5), span("load", 0, 2), span("store", 2, 5), span("load", 1, 2, 1),
    )  # fmt: skip
    assert hidden_fraction(Timeline(spans)) == 0.5


def test_without_copies_there_is_nothing_to_hide():
    assert hidden_fraction(Timeline((span("compute", 0, 1),))) is None


def figures(differing):
    return {
        "label": "measured",
        "environment": {"torch": "2"},
        "devices": [{"kind": "cuda Fake", "memory_bytes": 1}],
        "exactness": {"identical": not any(differing.values()), "differing": differing},
        "overlap": [
            {"host_memory": "pageable", "prefetch": False, "median_makespan_s": 2.0, "median_hidden_fraction": 0.25},
            {"host_memory": "registered", "prefetch": True, "median_makespan_s": 1.0, "median_hidden_fraction": None},
        ],
        "validation": {
            "plans": [{"policy": "fifo", "simulated_s": 1.0, "measured_s": [1.0, 2.0, 9.0], "error_fraction": -0.5}]
        },
    }


def test_the_report_says_what_differs_and_what_was_measured():
    text = report(figures({"A": [], "B": ["w", "losses"]}))
    assert "of 2 jobs byte-identical to the reference loop: **no**" in text
    assert "- B: 2 differ, the first is w" in text
    assert "| pageable | off | 2.000 s | 25 % |" in text
    assert "| registered | on | 1.000 s | no copies |" in text
    assert "| fifo | 1.000 s | 2.000 s | -50.0 % |" in text
    assert "**yes**" in report(figures({"A": []}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("command", [("experiments.gpu", "--smoke"), ("experiments.largest",)], ids=" ".join)
def test_without_a_gpu_one_line_and_exit_code_2(command, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", *command, "--output", str(tmp_path / "out")],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "no CUDA device" in done.stderr
    assert not (tmp_path / "out").exists()


def fakes(memory_bytes):
    return [FakeCudaDevice(memory_bytes=memory_bytes, key=11, slow_s=0.0)]


def test_bits_are_held_against_a_loop_in_its_own_process():
    # Without dropout: the stand-in draws that from a generator of its own, a loop on the CPU does not.
    jobs = [job for job in optimizer_jobs() if job.name in ("adamw", "momentum")]
    prepared = prepare_within_budget(jobs, fakes, 0.4)
    assert exactness(prepared, "experiments.gpu:optimizer_jobs", "cpu") == {"adamw": [], "momentum": []}


def test_the_study_leaves_its_evidence(tmp_path, monkeypatch):
    monkeypatch.setitem(WORKLOADS, "micro", (GptSpec("A", 32, 1, 2, minibatches=2, epochs=1, learning_rate=1e-3),))
    monkeypatch.setattr(gpu, "exactness", lambda prepared, workload, reference: {workload: []})
    study = Study("micro", fakes, rounds=1, repeats=1, policies=("fifo",), budget_fraction=2.0)
    run(study, tmp_path)
    found = write_report(tmp_path)
    assert found["exactness"]["differing"] == {"experiments.gpu:optimizer_jobs": [], "micro": []}
    assert [(row["host_memory"], row["prefetch"]) for row in found["overlap"]] == [
        ("registered", True), ("registered", False), ("pageable", True), ("pageable", False),
    ]  # fmt: skip
    assert all(0 <= row["median_hidden_fraction"] <= 1 for row in found["overlap"])
    assert json.loads((tmp_path / "summary.json").read_text()) == json.loads(json.dumps(found))
    names = {path.name for path in tmp_path.iterdir()}
    assert {
        "profile.json",
        "report.md",
        "summary.json",
        "validation",
        "overlap-registered-prefetch-0.jsonl.gz",
    } <= names
    assert len(list(tmp_path.glob("overlap-*.jsonl.gz"))) == 4
    (tmp_path / "exactness.json").unlink()  # a study that was cut off
    assert write_report(tmp_path)["exactness"] is None
    assert "**not run**" in (tmp_path / "report.md").read_text()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_the_study_is_exact(tmp_path):
    run(gpu.SMOKE, tmp_path)
    assert write_report(tmp_path)["exactness"]["identical"]
