"""Validation: predictions are on disk, with their hashes, before the first unit runs."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from executor import CpuDevice, DevicePool, TorchJob, prepare
from executor.errors import ExecutionError
from executor.profiler import profile
from experiments.suite import SUITES, CaseSpec
from experiments.validation import read_evidence, run_case, run_suite, write_evidence
from hydrasim import Timeline
from hydrasim.errors import PolicyError

SPEC = replace(SUITES["smoke"][0], policies=("fifo", "sharded-lrtf"))


def test_predictions_are_hashed_before_anything_runs(tmp_path: Path):
    prepared = SPEC.prepare().limited(2)
    before: list[str] = []

    def on_event(_: object) -> None:
        if not before:
            before.extend(sorted(path.name for path in tmp_path.iterdir()))

    with DevicePool(prepared.devices) as pool:
        done = run_case(
            "one", prepared, profile(prepared, pool=pool, rounds=1, minibatches=2), SPEC.policies, repeats=2,
            folder=tmp_path, pool=pool, on_event=on_event,
        )  # fmt: skip
    plans = ["plan-fifo.json", "plan-sharded-lrtf.json"]
    simulated = ["simulated-fifo.jsonl.gz", "simulated-sharded-lrtf.jsonl.gz"]
    assert before == [*plans, "predictions.json", "profile.json", *simulated]
    for name, digest in json.loads((tmp_path / "predictions.json").read_text()).items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    assert [len(plan.measured_s) for plan in done.plans] == [2, 2]
    assert max(plan.replay_error_fraction for plan in done.plans) < 0.005
    assert done.num_oom == 0
    for plan in done.plans:
        timeline = Timeline.read(tmp_path / f"measured-{plan.policy}-1.jsonl.gz")
        assert timeline.makespan_s == plan.measured_s[1]
        assert sum(plan.measured_by_cause_s.values()) == pytest.approx(sum(plan.measured_s) / 2)
        assert plan.perturbed_s["units +30 %"] > plan.simulated_s
        assert all(p >= m > 0 for p, m in zip(plan.simulated_peak_bytes, plan.measured_peak_bytes, strict=True))


def test_a_rerun_case_takes_its_place_beside_the_others(tmp_path: Path):
    cases = tuple(replace(SPEC, name=name, policies=("fifo",)) for name in ("a", "b"))
    run_suite(cases[:1], repeats=1, folder=tmp_path)
    assert [case.name for case in read_evidence(cases, tmp_path).cases] == ["a"]
    run_suite(cases[1:], repeats=1, folder=tmp_path)
    both = read_evidence(cases, tmp_path)
    write_evidence(both, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["num_cases"], summary["num_runs"], summary["num_oom"]) == (2, 2, 0)
    assert summary["labels"] == ["emulated"]
    assert "### b" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "report.png").stat().st_size > 10_000


class HungryOnce(nn.Module):
    """Takes a lot of memory, once, if a file is there."""

    def __init__(self, order: Path) -> None:
        super().__init__()
        self.order = order

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        if self.order.exists():
            self.order.unlink()
            tensor = tensor + torch.zeros(1 << 22)[0]
        return tensor


def test_a_run_out_of_memory_is_counted(tmp_path: Path):
    model = nn.Sequential(nn.Linear(4, 8), HungryOnce(tmp_path / "eat"), nn.Linear(8, 2))
    data = [(torch.ones(3, 4), torch.ones(3, 2))] * 3
    job = TorchJob("A", model, nn.functional.mse_loss, data, partial(torch.optim.SGD, lr=0.1))
    prepared = prepare([job], [CpuDevice(1 << 20)])
    measured = profile(prepared, rounds=1, minibatches=2)
    (tmp_path / "eat").touch()
    done = run_case("one", prepared, measured, ("fifo",), repeats=2)
    assert (done.num_oom, len(done.plans[0].measured_s)) == (1, 1)
    (tmp_path / "eat").touch()
    with pytest.raises(ExecutionError, match="BudgetExceeded"):
        run_case("one", prepared, measured, ("fifo",), repeats=1)


def test_an_unknown_policy_is_refused_before_anything_runs():
    prepared = SPEC.prepare().limited(2)
    measured = profile(prepared, rounds=1, minibatches=2)
    with pytest.raises(PolicyError, match="no policy is named 'best'"):
        run_case("one", prepared, measured, ["best"])


def test_a_case_says_what_it_is():
    assert isinstance(SPEC, CaseSpec)
    assert run_suite((replace(SPEC, policies=("fifo",)),), repeats=1).cases[0].about["budget"] == "half"
