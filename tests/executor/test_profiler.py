"""The profiler: every unit, copy and fetch has a time; an interrupted measurement goes on where it stopped."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import executor.profiler
from executor import DevicePool
from executor.profiler import profile
from experiments.demo import demo_prepared
from hydrasim.planning import make_plan
from hydrasim.profile import Profile


@pytest.fixture(scope="module")
def prepared():
    return demo_prepared("tiny", "cpu")


@pytest.fixture(scope="module")
def pool(prepared):
    with DevicePool(prepared.devices) as pool:
        yield pool


def test_every_unit_and_fetch_is_measured_and_plans_follow(prepared, pool):
    before = [parameter.clone() for part in prepared.partitions for parameter in part.job.module.parameters()]
    found = profile(prepared, pool=pool, rounds=1, minibatches=3)
    (kind,) = found.kinds.values()
    units = {(job.name, unit) for job in prepared.workload.jobs for unit in range(len(job.shards))}
    assert {(job, shard) for job, _, shard in kind.units} == units
    counted = {job.name: min(3, job.num_minibatches) - 1 for job in prepared.workload.jobs}  # the first is warm-up
    assert all(m.median_s > 0 and m.num_samples == counted[job] for (job, _, _), m in kind.units.items())
    assert set(found.fetches) == {"A", "B", "C"}
    plan, _ = make_plan(prepared.workload, prepared.cluster, "fifo", costs=found.costs(prepared.cluster))
    assert plan.makespan_s
    after = [parameter for part in prepared.partitions for parameter in part.job.module.parameters()]
    assert all(a.equal(b) for a, b in zip(before, after, strict=True))


def test_an_interrupted_measurement_resumes(prepared, pool, tmp_path: Path, monkeypatch):
    path = tmp_path / "profile.json"

    class Interrupted(Exception):
        pass

    real = executor.profiler.train

    def stop_in_second_round(*args, **named):
        if named["seed"] == 1:
            raise Interrupted
        return real(*args, **named)

    monkeypatch.setattr(executor.profiler, "train", stop_in_second_round)
    with pytest.raises(Interrupted):
        profile(prepared, path=path, pool=pool, rounds=2, minibatches=2)
    assert not path.exists()
    first = json.loads((tmp_path / "profile.json.partial").read_text())["rounds"]

    seeds = []

    def remember(*args, **named):
        seeds.append(named["seed"])
        return real(*args, **named)

    monkeypatch.setattr(executor.profiler, "train", remember)
    found = profile(prepared, path=path, pool=pool, rounds=2, minibatches=2)
    assert seeds == [1]
    assert len(first) == 1
    assert Profile.read(path).digest == found.digest
    assert [p.name for p in tmp_path.iterdir()] == ["profile.json"]


def test_a_partial_file_of_another_workload_or_damaged_is_not_used(prepared, pool, tmp_path: Path):
    path = tmp_path / "profile.json"
    for text in (json.dumps({"for": ["other", "other"], "rounds": [{"unit|cpu|A|F|0": [1e9]}]}), '{"for": [', "[]"):
        (tmp_path / "profile.json.partial").write_text(text)
        found = profile(prepared, path=path, pool=pool, rounds=1, minibatches=2)
        assert all(m.median_s < 1e8 for kind in found.kinds.values() for m in kind.units.values())
