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
from experiments.evidence import Evidence
from experiments.fidelity import CaseResult, Validation
from experiments.progress import Progress
from experiments.suite import SUITES, CaseSpec
from experiments.validation import read_suite, run_case, run_jobs, run_suite, score, write_evidence
from hydrasim import Profile, ShardUnit, Timeline, Workload, simulate
from hydrasim.dag import minibatch_dag
from hydrasim.errors import PolicyError
from hydrasim.planning import make_plan
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.profile import KindProfile, Measurement

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
    assert before == ["case.json", *plans, "predictions.json", "profile.json", *simulated]
    for name, digest in json.loads((tmp_path / "predictions.json").read_text()).items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
    assert [len(plan.measured_s) for plan in done.plans] == [2, 2]
    assert max(plan.replay_error_fraction for plan in done.plans) < 0.001
    assert done.num_oom == 0
    for plan in done.plans:
        timeline = Timeline.read(tmp_path / f"measured-{plan.policy}-1.jsonl.gz")
        assert timeline.makespan_s == plan.measured_s[1]
        assert sum(plan.measured_by_cause_s.values()) == pytest.approx(sum(plan.measured_s) / 2)
        assert plan.perturbed_s["units +30 %"][0] > plan.simulated_s
        assert all(p >= m > 0 for p, m in zip(plan.simulated_peak_bytes, plan.measured_peak_bytes, strict=True))


def test_a_rerun_case_takes_its_place_beside_the_others(tmp_path: Path):
    cases = tuple(replace(SPEC, name=name, policies=("fifo",)) for name in ("a", "b"))
    first = run_suite(cases[:1], repeats=1, folder=tmp_path)
    assert read_suite(cases, tmp_path) == first
    run_suite(cases[1:], repeats=1, folder=tmp_path)
    run_suite(cases[1:], repeats=1, folder=tmp_path)
    both = read_suite(cases, tmp_path)
    write_evidence(both, tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["num_cases"], summary["num_runs"], summary["num_oom"]) == (2, 2, 0)
    assert summary["labels"] == ["emulated"]
    assert "run 2 times, this is the last" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "report.png").stat().st_size > 10_000


def as_if_measured(policy: str, slower: float = 1.0) -> Evidence:
    """Return the evidence of a world in which everything takes `slower` times what was predicted."""
    prepared = SPEC.prepare().limited(3)
    half = Measurement(0.5, 0.5, 0.0, 1)
    once = {(unit.job, unit.phase, unit.shard): half for unit in all_units(prepared.workload)}
    copies = {direction: {1 << 20: Measurement(0.01, 0.01, 0.0, 1)} for direction in ("h2d", "d2h")}
    fetches = {job.name: Measurement(0.0, 0.0, 0.0, 1) for job in prepared.workload.jobs}
    found = Profile(prepared.workload, {"cpu": KindProfile(once, copies)}, fetches, cluster=prepared.cluster)
    plan, simulated = make_plan(prepared.workload, prepared.cluster, policy, costs=found.costs(prepared.cluster))
    costs = found.distorted(lambda _: slower, lambda _: slower).costs(prepared.cluster)
    world = simulate(prepared.workload, prepared.cluster, FollowPlan(plan), costs=costs)
    measured = replace(world, header=world.header | {"peak_bytes": simulated.header["peak_bytes"]})
    return Evidence("one", found, {policy: (plan, simulated)}, measured={policy: [measured]})


def all_units(workload: Workload) -> list[ShardUnit]:
    return [ShardUnit(j.name, *node, 1) for j in workload.jobs for node in minibatch_dag(j).nodes]


def test_a_perfect_profile_has_no_error_and_a_distorted_one_does():
    (plan,) = score(as_if_measured("sharded-lrtf")).plans
    assert (plan.error_fraction, plan.memory_error_fraction) == (0.0, 0.0)
    assert plan.replay_error_fraction < 1e-9
    assert not any(plan.residuals.values())
    fields = Validation((CaseResult("one", (plan,), "emulated"),)).summary()
    errors = fields["median_error_fraction_if_perturbed"]
    assert errors["units +30 %"] > 0.15
    assert errors["each unit +30 % or -30 %"] > 0.02
    assert len(plan.perturbed_s["each unit +30 % or -30 %"]) == 5


def test_a_world_twice_as_slow_is_an_error_of_half():
    (plan,) = score(as_if_measured("fifo", slower=2.0)).plans
    assert plan.error_fraction == pytest.approx(-0.5)
    assert sum(plan.residuals.values()) == pytest.approx(-0.5)


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
    class Untouched(Progress):
        def step(self, title: str, total: int):
            raise AssertionError(f"{title} has begun")

    with pytest.raises(PolicyError, match="no policy is named 'best'"):
        run_jobs("one", SPEC.prepare(), ["fifo", "best"], progress=Untouched())


def test_a_case_says_what_it_is():
    assert isinstance(SPEC, CaseSpec)
    assert run_suite((replace(SPEC, policies=("fifo",)),), repeats=1).cases[0].about["budget"] == "half"
