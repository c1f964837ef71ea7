"""Where a makespan goes, on timelines whose every gap is known."""

from __future__ import annotations

import pytest

from hydrasim import Cluster, Device, Mechanism, Timeline, simulate
from hydrasim.causes import CAUSES, seconds_by_cause
from hydrasim.timeline import Span
from tests.worlds import BYTE_A_SECOND, Script, devices, heavy, job, workload


def split(timeline: Timeline) -> dict[str, float]:
    return {cause: seconds for cause, seconds in seconds_by_cause(timeline).items() if seconds}


def test_a_lone_device_waits_for_its_load_then_computes_then_stores():
    # gpu0  h2d 64, compute 128, d2h 64
    timeline = simulate(workload(heavy("A", compute_s=128.0)), devices(1, link=BYTE_A_SECOND), "fifo")
    assert split(timeline) == {"h2d": 64.0, "compute": 128.0, "d2h": 64.0}


def test_a_device_that_waits_for_the_other_waits():
    # gpu0  F . B       gpu1  . L .        F and B 1, L 2: each device idles half of the time
    one = job(shards=2, minibatches=1)
    timeline = simulate(workload(one), devices(2), Script({"A/L1#0": 1}))
    assert timeline.makespan_s == 4.0
    assert split(timeline) == {"compute": 2.0, "wait": 2.0}


def test_a_loader_that_takes_long_is_the_host():
    timeline = simulate(workload(job(fetch_s=4.0)), devices(1), "fifo")
    assert split(timeline) == {"host": 4.0, "compute": 2.0}


def test_a_hand_over_is_part_of_the_unit_as_in_its_profile():
    spans = (
        Span(0, "compute", 0, "compute", "A/F0#0", 0.5, 1.0),
        Span(1, "compute", 0, "compute", "A/L1#0", 1.25, 2.0, after=(0,), issued_s=0.25),
    )
    assert split(Timeline(spans, {"num_devices": 1})) == {"compute": 2.0}


def test_from_the_end_that_caused_it_to_its_issue_a_unit_is_dispatched():
    # gpu0  . w w o C     the unit on gpu 1 is over at 2; what followed from it was issued half a second later
    # gpu1  C C C . .
    spans = (
        Span(0, "compute", 1, "compute", "A/F0#0", 0.0, 2.0),
        Span(1, "compute", 0, "compute", "A/L1#0", 2.5, 3.0, issued_s=2.5, cause=0),
    )
    assert split(Timeline(spans, {"num_devices": 2})) == {"wait": (2.0 + 1.0) / 2, "overhead": 0.25, "compute": 1.25}


@pytest.mark.parametrize("policy", ["random", "one-model-spilling", "sharded-lrtf"])
@pytest.mark.parametrize("mechanism", [Mechanism(), Mechanism(prefetch=False, keep="none")])
def test_causes_add_up_to_the_makespan(policy: str, mechanism: Mechanism):
    jobs = workload(*(heavy(name, minibatches=2, shards=3, blocks=2) for name in "ABC"))
    cluster = Cluster.of(2, Device(64 * 6, h2d=BYTE_A_SECOND, d2h=BYTE_A_SECOND))
    timeline = simulate(jobs, cluster, policy, mechanism=mechanism)
    found = seconds_by_cause(timeline)
    assert set(found) == set(CAUSES)
    assert min(found.values()) >= 0.0
    assert sum(found.values()) == timeline.makespan_s
    assert found["compute"] == timeline.makespan_s * timeline.utilization()
