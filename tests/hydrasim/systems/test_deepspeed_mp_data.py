"""Replicas take parts of a mini-batch, and sum up their gradients."""

from __future__ import annotations

import pytest

from hydrasim import Link
from hydrasim.errors import SystemRefused
from hydrasim.systems import simulate_system
from hydrasim.systems.deepspeed_mp_data import DeepspeedMPData
from tests.hydrasim.systems.pipelines import one, peers, stack
from tests.worlds import spans, times


def test_as_many_replicas_as_memory_allows():
    job = stack([1.0] * 8, parameter_bytes=8)  # 16 with gradients, and 8 for a bucket of them
    places = {
        memory: DeepspeedMPData(bucket_bytes=8).places(job, peers(8, memory_bytes=memory), range(8))
        for memory in (1 << 10, 8 * 16 + 8, 4 * 16 + 8, 2 * 16 + 8, 16)
    }
    assert {memory: len(found[0]) for memory, found in places.items()} == {1 << 10: 8, 136: 8, 72: 4, 40: 2, 16: 1}
    assert places[72] == ((0, 2, 4, 6), (1, 3, 5, 7))  # two stages, of four replicas each


def test_a_replica_takes_a_part_of_the_time():
    timeline = simulate_system(one(stack([1.0, 1.0], minibatches=2)), peers(4), DeepspeedMPData(replicas=2))
    assert timeline.makespan_s == 2 * 2 * 3.0 / 2
    assert timeline.utilization() == 0.5


def test_a_stages_gradients_are_reduced_while_the_stages_before_it_go_backward():
    # Two replicas of two stages, device 0 and 1, 2 and 3; an all-reduce passes on 64 bytes in all, in 1 s.
    # stage 1  .    F1   B1 .  | reduce |
    # stage 0  F0   .    .  B0          | reduce |     passes take 0.5 and 1
    job = stack([1.0, 1.0], minibatches=2, parameter_bytes=64)
    timeline = simulate_system(one(job), peers(4, Link(64)), DeepspeedMPData(replicas=2))
    first = [(span.device, span.start_s, span.end_s, span.nbytes) for span in spans(timeline, "gather")][:4]
    assert first == [(1, 2.0, 3.0, 64), (3, 2.0, 3.0, 64), (0, 3.0, 4.0, 64), (2, 3.0, 4.0, 64)]
    assert times(timeline, "compute", "A/F0#1")[0][0] == 4.0
    assert timeline.makespan_s == 8.0


def test_one_replica_reduces_nothing():
    timeline = simulate_system(one(stack([1.0, 1.0], parameter_bytes=64)), peers(2), DeepspeedMPData(replicas=1))
    assert not spans(timeline, "gather")
    assert timeline.makespan_s == 6.0


def test_memory_holds_a_part_of_the_activations_or_a_bucket():
    job = stack([1.0] * 4, parameter_bytes=100, activation_bytes=40)
    cluster, devices = peers(4), range(4)
    assert DeepspeedMPData(replicas=2, bucket_bytes=10).memory_bytes(job, cluster, devices) == [400 + 40] * 4
    assert DeepspeedMPData(replicas=2, bucket_bytes=150).memory_bytes(job, cluster, devices) == [400 + 150] * 4
    assert DeepspeedMPData(replicas=1).memory_bytes(job, cluster, devices) == [200 + 40] * 4


def test_replicas_that_do_not_divide_the_devices_are_refused():
    with pytest.raises(SystemRefused, match="replicas is 3; 4 devices divide into 1, 2, 4"):
        simulate_system(one(stack([1.0])), peers(4), DeepspeedMPData(replicas=3))


def test_a_bucket_holds_something():
    with pytest.raises(SystemRefused, match="deepspeed-mp-data: bucket_bytes is -1000000000; it must be at least 1"):
        DeepspeedMPData(bucket_bytes=-1_000_000_000)


def test_a_job_that_fits_no_replica_is_refused():
    with pytest.raises(SystemRefused, match="deepspeed-mp-data on 2 devices needs 32 bytes"):
        simulate_system(one(stack([1.0, 1.0], parameter_bytes=16)), peers(2, memory_bytes=31), "deepspeed-mp-data")
