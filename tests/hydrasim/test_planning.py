"""A plan that was filled in is followed to the letter, and says beforehand what does not fit."""

from dataclasses import replace

import pytest

from hydrasim import (
    HYDRA_RELEASED,
    OURS,
    PAPER,
    Cluster,
    Device,
    Link,
    Phase,
    Plan,
    Shard,
    TrainingJob,
    Workload,
    simulate,
)
from hydrasim.cluster import Disk
from hydrasim.command import normal_form
from hydrasim.errors import HostMemoryTooSmall, PlanError, ShardTooLarge
from hydrasim.planning import host_bytes, make_plan, misfits
from hydrasim.policies import policies
from hydrasim.policies.follow_plan import FollowPlan

SHARD = Shard(1.0, 1.0, parameter_bytes=1024, optimizer_bytes=2048, output_bytes=128, working_bytes=512)
WORKLOAD = Workload(
    tuple(
        TrainingJob(name, (SHARD,) * 3, count, input_bytes=64, target_bytes=64) for count, name in enumerate("ABC", 1)
    )
)
CLUSTER = Cluster.of(2, Device(8192, h2d=Link(4096.0), d2h=Link(4096.0)))


@pytest.mark.parametrize("policy", policies())
@pytest.mark.parametrize("mechanism", [OURS, PAPER, HYDRA_RELEASED], ids=["ours", "paper", "released"])
def test_following_a_filled_plan_repeats_it(policy, mechanism, tmp_path):
    planned, followed = [], []
    plan, predicted = make_plan(WORKLOAD, CLUSTER, policy, mechanism=mechanism, commands=planned)
    plan.write(tmp_path / "plan.json")
    read = Plan.read(tmp_path / "plan.json")
    timeline = simulate(WORKLOAD, CLUSTER, FollowPlan(read), mechanism=mechanism, commands=followed)
    assert read == plan
    assert normal_form(followed) == normal_form(planned)
    assert timeline.spans == predicted.spans
    assert plan.makespan_s == timeline.makespan_s


def test_every_step_says_where_its_state_lies():
    plan, timeline = make_plan(WORKLOAD, CLUSTER, "sharded-lrtf", profile_digest="abc")
    steps = [step for steps in plan.devices for step in steps]
    assert len(steps) == WORKLOAD.num_units
    assert all(step.offset is not None for step in steps)
    assert any(step.evict for step in steps)  # two shards fill a device
    assert (plan.policy, plan.profile_digest) == ("sharded-lrtf", "abc")
    assert (timeline.header["policy"], timeline.header["planned_by"]) == ("follow-plan", "sharded-lrtf")


def test_a_plan_for_another_mechanism_is_refused():
    plan, _ = make_plan(WORKLOAD, CLUSTER, "fifo")
    with pytest.raises(PlanError, match="Plan again for this mechanism"):
        simulate(WORKLOAD, CLUSTER, FollowPlan(plan), mechanism=PAPER)


def test_the_peak_holds_arena_and_activations():
    # One job of one shard: state 3072, input 64 and targets 64 lie there at once; 512 are kept free.
    job = TrainingJob("A", (SHARD,), 1, input_bytes=64, target_bytes=64)
    _, timeline = make_plan(Workload((job,)), Cluster.of(1, Device(8192)), "fifo")
    assert timeline.header["peak_bytes"] == [3072 + 64 + 64 + 512]


def test_no_peak_ever_exceeds_the_device():
    for mechanism in (OURS, PAPER, HYDRA_RELEASED):
        _, timeline = make_plan(WORKLOAD, CLUSTER, "random", mechanism=mechanism)
        assert max(timeline.header["peak_bytes"]) <= 8192


def test_a_plan_records_how_each_backward_found_its_activations_and_is_followed_to_that():
    shard = replace(SHARD, activation_bytes=1024)
    jobs = tuple(TrainingJob(name, (shard,) * 3, 2, activation_mode="keep") for name in "AB")
    workload = Workload(jobs)
    plan, timeline = make_plan(workload, CLUSTER, "round-robin")
    modes = {step.mode for steps in plan.devices for step in steps if step.unit.phase is Phase.BACKWARD}
    assert modes == {"keep", "recompute"}
    assert simulate(workload, CLUSTER, FollowPlan(plan)).spans == timeline.spans


def test_a_plan_with_a_disk_is_followed_to_the_letter():
    cluster = replace(CLUSTER, host_memory_bytes=8192, disk=Disk(Link(1024.0), Link(512.0)))
    plan, predicted = make_plan(WORKLOAD, cluster, "sharded-lrtf")
    assert {span.kind for span in predicted.spans} >= {"read", "write"}
    assert simulate(WORKLOAD, cluster, FollowPlan(plan)).spans == predicted.spans
    assert predicted.header["host_peak_bytes"] <= 8192


def test_in_theory_a_plan_is_an_order_alone():
    plan, timeline = make_plan(WORKLOAD, CLUSTER, "sharded-lrtf", effects="theory")
    dynamic = simulate(WORKLOAD, CLUSTER, "sharded-lrtf", effects="theory")
    assert {step.offset for steps in plan.devices for step in steps} == {None}
    assert timeline.makespan_s == dynamic.makespan_s == plan.makespan_s
    assert not {"peak_bytes", "host_peak_bytes"} & set(timeline.header)


def test_each_job_that_does_not_fit_says_why():
    large = TrainingJob("large", (replace(SHARD, parameter_bytes=8192),), 1)
    workload = Workload((WORKLOAD.jobs[0], large))
    (reason,) = misfits(workload, CLUSTER).values()
    assert misfits(WORKLOAD, CLUSTER) == {}
    assert reason.startswith("shard 0 of 'large' needs 10,240 bytes")
    assert "device 0 has 7,680 left of 8,192 (activation peak 512, loading zone 0)" in reason
    with pytest.raises(ShardTooLarge, match="shard 0 of 'large' needs 10,240 bytes"):
        make_plan(workload, CLUSTER, "fifo")


def test_a_neighbours_activation_peak_can_push_a_job_out():
    greedy = TrainingJob("greedy", (Shard(1.0, 1.0, working_bytes=7168),), 1)
    workload = Workload((WORKLOAD.jobs[0], greedy))
    assert list(misfits(workload, CLUSTER)) == ["A"]
    assert misfits(Workload((WORKLOAD.jobs[0],)), CLUSTER) == {}


def test_too_little_host_memory_is_no_fault_of_a_single_job():
    assert misfits(WORKLOAD, replace(CLUSTER, host_memory_bytes=64)) == {}
    with pytest.raises(HostMemoryTooSmall):
        make_plan(WORKLOAD, replace(CLUSTER, host_memory_bytes=64), "fifo")


def test_host_memory_holds_state_boundaries_and_the_next_minibatch():
    job = TrainingJob("A", (SHARD,) * 2, 1, input_bytes=64, target_bytes=192)
    state, boundary, gradient = 2 * 3072, 64 + 128, 128
    assert host_bytes(job) == state + boundary + gradient + 192
    assert host_bytes(replace(job, minibatches=2)) == host_bytes(job) + 64 + 192


def test_host_memory_holds_spilled_activations():
    job = TrainingJob("A", (replace(SHARD, activation_bytes=100),) * 3, 1, activation_mode="spill")
    assert host_bytes(job) == host_bytes(replace(job, activation_mode="keep")) + 2 * 128
