"""Devices, links and clusters."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from hydrasim import Cluster, Device, Link
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
    ]
    assert len({cluster.digest for cluster in clusters}) == 5
    assert Cluster((device,)).digest == Cluster((Device(64),)).digest
