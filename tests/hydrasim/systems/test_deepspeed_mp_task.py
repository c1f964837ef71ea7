"""Groups of devices train jobs beside each other."""

from __future__ import annotations

import pytest

from hydrasim import Cluster, Device, Workload
from hydrasim.errors import SystemRefused
from hydrasim.systems import simulate_system
from hydrasim.systems.base import dealt
from hydrasim.systems.deepspeed_mp_task import DeepspeedMPTask
from tests.hydrasim.systems.pipelines import one, peers, stack
from tests.worlds import spans


def test_as_many_groups_as_hold_every_job():
    small, large = (stack([1.0] * count, name=f"m{count}", parameter_bytes=8) for count in (4, 8))
    jobs = Workload((small, large))  # the large one needs 128 bytes
    found = {
        memory: len(DeepspeedMPTask().groups(jobs, peers(8, memory_bytes=memory))) for memory in (128, 64, 48, 16, 8)
    }
    assert found == {128: 8, 64: 4, 48: 2, 16: 1, 8: 1}


def test_devices_are_dealt_out_evenly():
    assert dealt(8, 3) == [(0, 1), (2, 3, 4), (5, 6, 7)]
    assert dealt(4, 4) == [(0,), (1,), (2,), (3,)]


def test_every_group_must_hold_every_job():
    cluster = Cluster((Device(64), Device(32), Device(16), Device(16)))
    assert DeepspeedMPTask().groups(one(stack([1.0] * 4, parameter_bytes=8)), cluster) == [(0, 1, 2, 3)]
    assert DeepspeedMPTask().groups(one(stack([1.0] * 2, parameter_bytes=8)), cluster) == [(0,), (1,), (2, 3)]


def test_the_next_job_goes_to_the_group_that_is_free_first():
    jobs = Workload(
        tuple(stack([1.0], name=name, minibatches=count) for name, count in zip("ABC", (3, 1, 1), strict=True))
    )
    timeline = simulate_system(jobs, peers(2), DeepspeedMPTask())
    assert {(span.job, span.device) for span in spans(timeline, "compute")} == {("A", 0), ("B", 1), ("C", 1)}
    assert timeline.makespan_s == 9.0


def test_how_many_groups_can_be_said():
    assert DeepspeedMPTask(num_groups=2).groups(one(stack([1.0])), peers(4)) == [(0, 1), (2, 3)]
    with pytest.raises(SystemRefused, match="num_groups is 5; there are 4 devices"):
        simulate_system(one(stack([1.0])), peers(4), DeepspeedMPTask(num_groups=5))
