"""Where a makespan goes, on timelines whose every gap is known."""

from __future__ import annotations

import pytest

from hydrasim import Cluster, Device, Mechanism, Timeline, simulate
from hydrasim.causes import CAUSES, causes_by_device, seconds_by_cause
from hydrasim.command import Kind
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


def test_a_load_that_follows_the_disk_waits_for_the_disk_first():
    # disk  W R . .      room is made, the state is read; then it is loaded, and computes
    # gpu0  . . L C
    spans = (
        Span(0, "write", -1, "disk", "B/F0#0", 0.0, 1.0),
        Span(1, "read", -1, "disk", "A/F0#0", 1.0, 2.0, after=(0,)),
        Span(2, "load", 0, "h2d", "A/F0#0", 2.0, 3.0, after=(1,)),
        Span(3, "compute", 0, "compute", "A/F0#0", 3.0, 4.0, after=(2,)),
    )
    assert split(Timeline(spans, {"num_devices": 1})) == {"disk": 2.0, "h2d": 1.0, "compute": 1.0}


def test_what_a_device_waits_for_before_a_send_is_the_others_turn():
    # gpu0  C C P .      gpu1 waits for two seconds of work and one of sending
    # gpu1  . . . C
    spans = (
        Span(0, "compute", 0, "compute", "A/F0#0", 0.0, 2.0),
        Span(1, "send", 0, "peer", "A/F0#0", 2.0, 3.0, after=(0,), peer=1),
        Span(2, "compute", 1, "compute", "A/L1#0", 3.0, 4.0, after=(1,)),
    )
    assert causes_by_device(Timeline(spans, {"num_devices": 2})) == [
        dict.fromkeys(CAUSES, 0.0) | {"wait": 1.0, "peer": 1.0, "compute": 2.0},
        dict.fromkeys(CAUSES, 0.0) | {"wait": 2.0, "peer": 1.0, "compute": 1.0},
    ]


def test_an_update_on_the_host_is_waited_for_and_may_come_last():
    # gpu0  C S U L C S U W      the second unit needs what the first update left; at last the disk is written
    kinds = [("compute", "compute"), ("store", "d2h"), ("update", "host"), ("load", "h2d")] * 2
    spans = [
        Span(i, kind, 0, lane, "A/L0#0", i, i + 1.0, after=(i - 1,) if i else ())
        for i, (kind, lane) in enumerate(kinds)
    ]
    spans[7] = Span(7, "write", -1, "disk", "A/L0#0", 7.0, 8.0, after=(6,))
    found = split(Timeline(tuple(spans), {"num_devices": 1}))
    assert found == {"compute": 2.0, "host": 3.0, "h2d": 1.0, "d2h": 1.0, "disk": 1.0}


def test_every_kind_of_command_has_a_cause():
    for kind in Kind:
        spans = (
            Span(0, kind.value, 0, "host", "A/F0#0", 0.0, 1.0),
            Span(1, "compute", 0, "compute", "A/F0#0", 1.0, 2.0, after=(0,)),
        )
        assert sum(split(Timeline(spans, {"num_devices": 1})).values()) == 2.0


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


def test_until_its_job_arrives_a_device_waits():
    timeline = simulate(workload(job("A", arrival_s=4.0, fetch_s=1.0)), devices(1), "fifo")
    assert split(timeline) == {"wait": 4.0, "host": 1.0, "compute": 2.0}
