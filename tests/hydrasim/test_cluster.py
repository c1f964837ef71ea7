"""Devices, links and clusters."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from hydrasim import Bus, Cluster, Device, Link
from hydrasim.cluster import Disk
from hydrasim.errors import ClusterError
from hydrasim.profile import StatedCosts
from tests.worlds import job, workload


def test_a_copy_takes_latency_and_bytes_over_bandwidth():
    device = Device(64, h2d=Link(bytes_per_s=4.0, latency_s=0.5), d2h=Link(bytes_per_s=2.0))
    costs = StatedCosts(workload(job()), Cluster((device,)))
    assert costs.copy_s(10, 0, "h2d") == 3.0
    assert costs.copy_s(10, 0, "d2h") == 5.0


def test_a_link_is_free_unless_said_otherwise():
    assert Link().copy_s(1 << 40) == 0.0


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, math.nan])
def test_a_link_needs_a_bandwidth(bandwidth: float):
    with pytest.raises(ClusterError, match="link: bytes_per_s is .*; it must be above 0"):
        Link(bytes_per_s=bandwidth)


@pytest.mark.parametrize("latency", [-1.0, math.inf, math.nan])
def test_a_link_needs_a_finite_latency(latency: float):
    with pytest.raises(ClusterError, match="link: latency_s is .*; it must be finite and not negative"):
        Link(latency_s=latency)


@pytest.mark.parametrize("memory", [0, -1])
def test_a_device_needs_memory(memory: int):
    with pytest.raises(ClusterError, match=f"device: memory_bytes is {memory}; it must be at least 1"):
        Device(memory)


@pytest.mark.parametrize("speed", [0.0, -1.0, math.inf, math.nan])
def test_a_device_needs_a_finite_speed(speed: float):
    with pytest.raises(ClusterError, match="device: speed is .*; it must be finite and above 0"):
        Device(1, speed=speed)


def test_a_cluster_needs_devices():
    with pytest.raises(ClusterError, match="the cluster has no devices"):
        Cluster(())
    with pytest.raises(ClusterError, match="a cluster of 0 devices cannot train"):
        Cluster.of(0, Device(1))


def test_equal_devices_are_written_once():
    assert Cluster.of(3, Device(5)).devices == (Device(5), Device(5), Device(5))


def test_the_digest_changes_with_every_field_and_with_nothing_else():
    device = Device(64)
    clusters = [
        Cluster((device,)),
        Cluster((device, device)),
        Cluster((replace(device, memory_bytes=65),)),
        Cluster((replace(device, d2h=Link(8.0)),)),
        Cluster((replace(device, kind="other"),)),
        Cluster((replace(device, duplex="half"),)),
        Cluster((replace(device, peer=Link(8.0)),)),
        Cluster((device,), buses=(Bus("a", 1.0),)),
        Cluster((device,), host_bytes_per_s=8.0),
    ]
    assert len({cluster.digest for cluster in clusters}) == len(clusters)
    assert Cluster((device,)).digest == Cluster((Device(64),)).digest


def test_plans_stay_valid_when_a_speed_is_measured_again():
    assert Cluster((Device(64),)).digest == Cluster((Device(64),), core_copy_bytes_per_s=8.0).digest


def test_a_copy_is_as_fast_as_the_slowest_thing_on_its_way():
    link = Link(8.0, pageable_bytes_per_s=3.0, shared="a")
    device = Device(64, h2d=link)
    bus = (Bus("a", 6.0),)
    assert Cluster((device,), buses=bus).copy_bytes_per_s(0, "h2d") == 6.0
    assert Cluster((device,), buses=bus).copy_bytes_per_s(0, "h2d", pinned=False) == 3.0
    assert Cluster((device,), buses=bus, host_bytes_per_s=4.0).copy_bytes_per_s(0, "h2d") == 4.0
    assert Cluster((device,), buses=bus, host_bytes_per_s=6.0).copy_bytes_per_s(0, "h2d", pinned=False) == 2.0
    emulated = replace(device, on_host=True)
    assert Cluster((emulated,), buses=bus, host_bytes_per_s=4.0).copy_bytes_per_s(0, "h2d") == 2.0
    assert Cluster((device,), buses=bus).copy_bytes_per_s(0, "d2h") == math.inf


def test_devices_send_over_their_peer_links_or_through_host_memory():
    near, far = Device(64, peer=Link(8.0, 0.25)), Device(64, peer=Link(4.0, 0.5))
    assert Cluster((near, far)).send_bytes_per_s(0, 1) == 4.0
    assert Cluster((near, far)).send_latency_s(0, 1) == 0.5
    alone = Device(64, h2d=Link(4.0, 0.25), d2h=Link(2.0, 0.5))
    assert Cluster((near, alone)).send_bytes_per_s(0, 1) == 4.0
    assert Cluster((alone, near)).send_bytes_per_s(0, 1) == 2.0
    assert Cluster((alone, alone)).send_latency_s(0, 1) == 0.75


def test_what_is_on_both_halves_of_a_way_is_gone_over_twice():
    device = Device(64, h2d=Link(8.0, shared="a"), d2h=Link(8.0, shared="a"), duplex="half")
    assert Cluster((device, device), buses=(Bus("a", 4.0, "half"),)).send_bytes_per_s(0, 1) == 2.0
    assert Cluster((device, device), buses=(Bus("a", 4.0),)).send_bytes_per_s(0, 1) == 4.0
    assert Cluster((device, device), buses=(Bus("a", 8.0),)).send_bytes_per_s(0, 0) == 4.0
    assert Cluster((device, device), buses=(Bus("a", 8.0),), host_bytes_per_s=6.0).send_bytes_per_s(0, 1) == 3.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"host_cores": 0}, "host_cores is 0; it must be at least 1"),
        ({"host_bytes_per_s": 0.0}, "host_bytes_per_s is 0.0; it must be above 0"),
        ({"core_copy_bytes_per_s": math.nan}, "core_copy_bytes_per_s is nan; it must be above 0"),
        ({"compute_slowdown": (0.5,)}, "compute_slowdown: 0.5 is no slowdown; it must be finite and at least 1"),
        ({"variation": 1.5}, "variation is 1.5; it must be from 0 to 1"),
        ({"buses": (Bus("a", 1.0), Bus("a", 2.0))}, "two buses are named 'a'; names must differ"),
        ({"disk": Disk(Link(shared="b")), "buses": (Bus("a", 1.0),)}, "disk: read is shared over 'b', .* there are a"),
    ],
)
def test_a_cluster_refuses_what_cannot_be(fields: dict[str, object], message: str):
    with pytest.raises(ClusterError, match=message):
        Cluster((Device(1),), **fields)


def test_a_link_names_a_bus_that_is_there():
    with pytest.raises(ClusterError, match="device 1: peer is shared over 'a', which is no bus .*; there are none"):
        Cluster((Device(1), Device(1, peer=Link(shared="a"))))


def test_a_bus_has_a_name_a_bandwidth_and_one_of_two_ways_to_carry():
    with pytest.raises(ClusterError, match="bus: it has no name"):
        Bus("", 1.0)
    with pytest.raises(ClusterError, match="bus 'a': bytes_per_s is 0; it must be above 0"):
        Bus("a", 0)
    with pytest.raises(ClusterError, match="bus 'a': duplex is 'double'; it is one of full, half"):
        Bus("a", 1.0, "double")
    with pytest.raises(ClusterError, match="device: duplex is 'double'; it is one of full, half"):
        Device(1, duplex="double")


def test_a_device_alone_is_not_slowed_down():
    with pytest.raises(ClusterError, match=r"compute_slowdown begins with 1.5; the first is of one device alone"):
        Cluster((Device(64),), compute_slowdown=(1.5, 2.0))


def test_dispatch_takes_a_time():
    with pytest.raises(ClusterError, match="dispatch_s is -1.0; it must be finite and not negative"):
        Cluster((Device(64),), dispatch_s=-1.0)


def test_what_is_no_part_of_a_plan_is_not_in_the_digest():
    plain = Cluster((Device(64),) * 2)
    stated = replace(plain, compute_slowdown=(1.0, 1.5), variation=0.5, dispatch_s=0.25, core_copy_bytes_per_s=1e9)
    assert stated.digest == plain.digest
