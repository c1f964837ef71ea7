"""The profiler: every unit, copy and fetch has a time; an interrupted measurement goes on where it stopped."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import executor.profiler
from executor import DevicePool
from executor.profiler import profile
from experiments.demo import demo_prepared
from hydrasim import OURS, PAPER, Cluster, Device, Link, Phase, Profile, Timeline
from hydrasim.planning import make_plan
from hydrasim.timeline import Span

IDENTITY = {"workload": "this one"}


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
    counted = {job.name: min(3, job.num_minibatches) - 1 for job in prepared.workload.jobs}  # the first is apart
    assert all(m.median_s > 0 and m.num_samples == counted[job] for (job, _, _), m in kind.units.items())
    assert {key: m.num_samples for key, m in kind.first_units.items()} == dict.fromkeys(kind.units, 1)
    assert found.dispatch is not None
    assert found.dispatch.mean_s > 0
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


@pytest.mark.parametrize(
    "samples",
    [
        {},
        {"unit|cpu|A|F|0": [1.0]},  # other units are missing
        {"nonsense": [1.0]},
        {"unit|cpu|A|Z|0": [1.0]},
        {"unit|cpu|A|F|0": []},
        {"unit|cpu|A|F|0": [float("nan")]},
        {"unit|cpu|A|F|0": [-1.0]},
        {"unit|cpu|A|F|0": [1e300]},
    ],
)
def test_a_partial_file_that_holds_no_times_is_not_used(prepared, tmp_path: Path, samples: object):
    # Such a one once became an IndexError, a StatisticsError, or a profile with a hole.
    path = tmp_path / "profile.json.partial"
    path.write_text(json.dumps({"for": IDENTITY, "rounds": [samples]}))
    assert executor.profiler._resume(path, prepared, IDENTITY) == []


def test_a_folder_in_the_place_of_a_partial_file_is_not_read(prepared, tmp_path: Path):
    (tmp_path / "profile.json.partial").mkdir()
    assert executor.profiler._resume(tmp_path / "profile.json.partial", prepared, IDENTITY) == []


def test_what_others_took_meanwhile_is_no_part_of_a_commands_time():
    # cores  A A A A .     one core; B begins at 1 and both go at half speed, until A is over at 3
    #        . B B B B
    spans = (
        Span(0, "compute", 0, "compute", "A/L0#1", 0.0, 3.0),
        Span(1, "compute", 1, "compute", "B/L0#1", 1.0, 4.0, issued_s=1.0),
        Span(2, "compute", 1, "compute", "B/L0#0", 4.0, 5.0, issued_s=1.0),
    )
    cluster = Cluster((Device(64, kind="cpu", on_host=True),) * 2, host_cores=1)
    found = executor.profiler._samples(Timeline(spans, {"num_devices": 2}), cluster)
    assert found == {"unit|cpu|A|L|0": [2.0], "unit|cpu|B|L|0": [2.0], "first unit|cpu|B|L|0": [1.0]}


def test_the_first_round_says_nothing_of_first_mini_batches_nor_do_copies_differ(prepared):
    first, later = (
        {"first unit|cpu|A|L|0": [s], "unit|cpu|A|L|0": [s], "first copy|cpu|h2d|64": [s]} for s in (8.0, 2.0)
    )
    (kind,) = executor.profiler._merge(prepared, [first, later], 2, 2).kinds.values()
    assert (kind.first_units["A", Phase.LOSS, 0].mean_s, kind.units["A", Phase.LOSS, 0].mean_s) == (2.0, 5.0)
    assert kind.copies["h2d"][64].mean_s == 2.0


def test_rounds_of_another_mechanism_or_length_are_measured_again(prepared):
    ours = executor.profiler._identity(prepared, OURS, 4)
    assert ours == executor.profiler._identity(prepared, OURS, 4)
    assert ours != executor.profiler._identity(prepared, PAPER, 4)
    assert ours != executor.profiler._identity(prepared, OURS, 5)


def test_what_a_core_copies_is_measured_where_links_are_emulated():
    free, throttled = (Cluster((Device(64, h2d=link, on_host=True),)) for link in (Link(), Link(1e6)))
    real = Cluster((Device(64, h2d=Link(1e6)),))
    assert executor.profiler._with_core_copies(free) == free
    assert executor.profiler._with_core_copies(real) == real
    measured = executor.profiler._with_core_copies(throttled)
    assert 1e6 < measured.core_copy_bytes_per_s < math.inf
    assert measured.digest == throttled.digest


def test_a_backward_that_only_ever_recomputed_is_freed_of_that():
    samples = {"unit|cpu|B|F|0": [1.0, 3.0], "recomputed unit|cpu|B|B|0": [5.0, 1.5],
               "unit|cpu|B|B|1": [4.0], "recomputed unit|cpu|B|B|1": [9.0]}  # fmt: skip
    found = executor.profiler._as_their_jobs_say(samples)
    assert found == {"unit|cpu|B|F|0": [1.0, 3.0], "unit|cpu|B|B|0": [3.0, 0.0], "unit|cpu|B|B|1": [4.0]}
