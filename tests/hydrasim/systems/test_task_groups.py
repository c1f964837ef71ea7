"""Groups of devices train jobs beside each other by any system."""

from __future__ import annotations

import pytest

from hydrasim import Workload
from hydrasim.errors import SystemRefused
from hydrasim.systems import make_system, simulate_system
from hydrasim.systems.task_groups import TaskGroups
from tests.hydrasim.systems.pipelines import one, peers, stack
from tests.worlds import spans


def test_each_group_trains_a_job_by_the_technique():
    jobs = Workload(tuple(stack([1.0], name=name) for name in "ABC"))
    timeline = simulate_system(jobs, peers(4), TaskGroups("ddp", num_groups=2))
    found = {(span.job, span.device) for span in spans(timeline, "compute")}
    assert found == {("A", 0), ("A", 1), ("B", 2), ("B", 3), ("C", 0), ("C", 1)}
    alone = simulate_system(one(stack([1.0])), peers(2), "ddp")
    assert timeline.makespan_s == 2 * alone.makespan_s


def test_one_group_is_the_technique_itself():
    jobs = Workload(tuple(stack([1.0, 2.0], name=name, parameter_bytes=64) for name in "AB"))
    grouped = simulate_system(jobs, peers(2), TaskGroups("fsdp:recompute=false", 1))
    assert grouped.spans == simulate_system(jobs, peers(2), make_system("fsdp", {"recompute": "false"})).spans


def test_as_many_groups_as_hold_every_job():
    jobs = one(stack([1.0] * 4, parameter_bytes=8))  # 32 bytes, whose gradients and buckets weigh as much each
    found = {memory: len(TaskGroups().groups(jobs, peers(4, memory_bytes=memory))) for memory in (96, 95)}
    assert found == {96: 4, 95: 1}  # more devices do not make a replica smaller
    assert len(TaskGroups("fsdp").groups(jobs, peers(4, memory_bytes=72))) == 2


def test_a_group_needs_what_the_technique_needs_of_it():
    job, cluster = stack([1.0, 2.0], parameter_bytes=64), peers(4)
    for technique in ("ddp", "fsdp-offload"):
        grouped, made = TaskGroups(technique, num_groups=2), make_system(technique)
        assert grouped.memory_bytes(job, cluster, (2, 3)) == made.memory_bytes(job, cluster, (2, 3))
        assert grouped.host_bytes(job, cluster, (2, 3)) == made.host_bytes(job, cluster, (2, 3))


def test_what_it_cannot_do_is_refused():
    with pytest.raises(SystemRefused, match="task-groups: num_groups is 5; there are 4 devices"):
        simulate_system(one(stack([1.0])), peers(4), TaskGroups(num_groups=5))
    with pytest.raises(SystemRefused, match="no system is named 'best'"):
        simulate_system(one(stack([1.0])), peers(4), TaskGroups("best"))
