"""Evaluation units: forwards that nothing learns from, after each epoch, in the simulator and for its users."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from hydrasim import Cluster, Device, Phase, Shard, ShardUnit, TrainingJob, Workload, simulate
from hydrasim.dag import Templates, is_last_forward, kinds_of_minibatches, minibatch_dag
from hydrasim.dataflow import BlockKey, dataflow, is_last_update, updates_state
from hydrasim.errors import SystemRefused, WorkloadError
from hydrasim.files import read_workload, workload_fields
from hydrasim.optimum.bounds import loaded_bytes
from hydrasim.plan import Plan
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.progress import JobProgress
from hydrasim.systems.run import simulate_system
from tests.worlds import units

SHARD = Shard(1.0, 1.0, parameter_bytes=64, optimizer_bytes=128, output_bytes=64, evaluate_s=0.5)


def job(**fields: object) -> TrainingJob:
    return TrainingJob("A", (SHARD, SHARD), **({"minibatches": 2, "epochs": 2, "evaluation_minibatches": 1} | fields))


def unit(text: str) -> ShardUnit:
    return ShardUnit.parse(text)


def test_an_evaluation_is_a_chain_of_forwards_after_each_epoch():
    timeline = simulate(Workload((job(),)), Cluster((Device(1 << 20),)), "fifo")
    trained = ["F0", "L1", "B0"]
    expected = [f"A/{node}#{n}" for n in range(6) for node in (["E0", "E1"] if n in (2, 5) else trained)]
    assert units(timeline) == expected
    assert job().num_units == len(expected)


def test_an_evaluation_takes_its_time():
    # F0 1, L1 2, B0 2 four times, E0 0.5, E1 0.5 twice
    timeline = simulate(Workload((job(),)), Cluster((Device(1 << 20),)), "fifo", effects="theory")
    assert timeline.makespan_s == 4 * 5.0 + 2 * 1.0


def test_it_reads_parameters_and_its_boundary_and_uses_that_up():
    flow = dataflow(job(), unit("A/E0#2"))
    assert flow.reads == ((BlockKey("w", "A", 0, -1), 64), (BlockKey("x", "A", 0, 2), 0))
    assert flow.writes == (BlockKey("x", "A", 1, 2),)
    assert flow.consumes == (BlockKey("x", "A", 0, 2),)
    last = dataflow(job(), unit("A/E1#2"))
    assert last.consumes == (BlockKey("x", "A", 1, 2), BlockKey("y", "A", 1, 2))
    assert (last.writes, last.updates_state) == ((), False)


def test_it_needs_all_of_a_state_that_forwards_change_and_changes_none():
    moving = job()
    moving = replace(moving, shards=tuple(replace(shard, forward_updates=True) for shard in moving.shards))
    assert dict(dataflow(moving, unit("A/E0#2")).reads)[BlockKey("w", "A", 0, -1)] == 192
    assert updates_state(moving, unit("A/F0#1"))
    assert not updates_state(moving, unit("A/E0#2"))


def test_the_last_update_comes_before_the_last_evaluation():
    assert is_last_update(job(), unit("A/B0#4"))
    assert not is_last_update(job(), unit("A/B0#1"))
    assert not is_last_update(job(), unit("A/E0#5"))


def test_the_loader_waits_for_the_last_shard():
    assert is_last_forward(job(), unit("A/E1#2"))
    assert not is_last_forward(job(), unit("A/E0#2"))


def test_they_are_a_kind_of_mini_batch():
    assert kinds_of_minibatches(job()) == [(0, 1), (1, 3), (2, 2)]
    assert list(minibatch_dag(job(), 2).nodes) == [(Phase.EVALUATE, 0), (Phase.EVALUATE, 1)]


def test_what_remains_counts_evaluations():
    started = job()
    templates = Templates.of_job(started)
    kinds = templates.with_step, templates.evaluation
    unit_s, evaluation_s = ([started.unit_s(*node) for node in template.nodes] for template in kinds)
    progress = JobProgress(0, started, templates, unit_s, evaluation_s)
    found = []
    while not progress.finished:
        found.append((progress.remaining_s, progress.minibatches_left, progress.minibatches_done))
        (front,) = progress.front()
        progress.issue(front, 0, len(found))
        progress.finish(front, 1.0)
    assert found[0] == (22.0, 3, 0)
    assert found[6] == (12.0, 2, 2)  # two trained on, the evaluation not begun
    assert found[7] == (11.5, 2, 2)
    assert found[8] == (11.0, 2, 3)
    assert progress.remaining_s == 0.0


def test_a_stopped_job_ends_where_it_is():
    stopped = replace(job(), ends_after=4)
    assert [stopped.schedule.is_evaluation(n) for n in range(4)] == [False, False, True, False]
    assert stopped.num_units == 3 * 3 + 2


def test_a_plan_knows_which_units_there_are():
    workload, cluster = Workload((job(),)), Cluster((Device(1 << 20),))
    plan = Plan.of(simulate(workload, cluster, "fifo"), workload, cluster)
    plan.check(workload, 1)
    followed = simulate(workload, cluster, FollowPlan(plan))
    assert units(followed) == [str(step.unit) for step in plan.devices[0]]


def test_loads_of_evaluations_are_in_the_bound():
    shards = (replace(SHARD, evaluate_s=0.0),) * 2
    without = replace(job(), evaluation_minibatches=0, shards=shards)
    assert loaded_bytes(job(), 0) - loaded_bytes(without, 0) == 2 * 2 * 64  # twice, two shards' parameters


def test_files_keep_them(tmp_path):
    path = tmp_path / "workload.json"
    workload = Workload((job(max_minibatches=3),))
    path.write_text(json.dumps(workload_fields(workload)))
    assert read_workload(path) == workload


def test_rival_systems_refuse_them():
    with pytest.raises(SystemRefused, match="job 'A' has evaluation_minibatches"):
        simulate_system(Workload((job(),)), Cluster((Device(1 << 20),) * 2), "ddp")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"evaluation_minibatches": -1}, "must not be negative"),
        ({"evaluation_minibatches": 0}, "a shard states evaluate_s"),
        ({"minibatches": 3, "update_units": True, "accumulate": 2}, "do not divide into steps of 2"),
        ({"max_minibatches": 0}, "max_minibatches is 0"),
        ({"ends_after": 0}, "ends_after is 0"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, object], message: str):
    with pytest.raises(WorkloadError, match=message):
        job(**fields)
