"""A machine: its cards, its first devices, its numbers with their sources, and the file that can be edited."""

import pytest

from hydrasim import Bus, Cluster, Device, Disk, Link
from hydrasim.errors import ClusterError
from hydrasim.files import read_cluster
from hydrasim.machine import Accelerator, Machine

CARD = Accelerator("fast", 64, 8.0, {"fp32": 4.0}, {"flops_per_s": "read: fast.html"})
OLD_CARD = Accelerator("slow", 32, 4.0, {"fp32": 1.0}, {})
FAST = Device(64, h2d=Link(2.0, pageable_bytes_per_s=1.0, shared="switch"), kind="fast")
SLOW = Device(32, speed=0.25, kind="slow", peer=Link(1.0, 0.5))


def machine(*devices, **fields):
    cards = {card.name: card for card in (CARD, OLD_CARD) if card.name in {device.kind for device in devices}}
    cluster = Cluster(devices, buses=(Bus("switch", 2.0),), disk=Disk(read=Link(0.5)), **fields)
    sources = {"disk": "estimate: slow", "fast.h2d": "read: h2d.html", "fast.h2d.bytes_per_s": "paper: page 3"}
    return Machine("test", "two cards", cluster, cards, sources)


def test_the_card_of_equal_devices():
    assert machine(FAST, FAST).accelerator == CARD
    with pytest.raises(ClusterError, match="machine 'test' has fast and slow; say which is meant"):
        machine(FAST, SLOW).accelerator  # noqa: B018


def test_its_first_devices():
    both = machine(FAST, SLOW, host_cores=3)
    assert both.first(None) == both.cluster
    assert both.first(1) == machine(FAST, host_cores=3).cluster
    for count in (0, 3):
        with pytest.raises(ClusterError, match=f"machine 'test' has 2 devices, not {count}"):
            both.first(count)


def test_its_numbers_are_those_that_were_stated():
    assert machine(FAST, FAST, SLOW, host_cores=3).constants() == {
        "host_cores": 3,
        "buses.bytes_per_s": 2.0,
        "disk.read.bytes_per_s": 0.5,
        "disk.read.latency_s": 0.0,
        "disk.write.bytes_per_s": float("inf"),
        "disk.write.latency_s": 0.0,
        "fast.memory_bytes": 64,
        "fast.h2d.bytes_per_s": 2.0,
        "fast.h2d.latency_s": 0.0,
        "fast.h2d.pageable_bytes_per_s": 1.0,
        "fast.d2h.bytes_per_s": float("inf"),
        "fast.d2h.latency_s": 0.0,
        "fast.memory_bytes_per_s": 8.0,
        "fast.flops_per_s.fp32": 4.0,
        "slow.memory_bytes": 32,
        "slow.speed": 0.25,
        "slow.h2d.bytes_per_s": float("inf"),
        "slow.h2d.latency_s": 0.0,
        "slow.d2h.bytes_per_s": float("inf"),
        "slow.d2h.latency_s": 0.0,
        "slow.peer.bytes_per_s": 1.0,
        "slow.peer.latency_s": 0.5,
        "slow.memory_bytes_per_s": 4.0,
        "slow.flops_per_s.fp32": 1.0,
    }


def test_the_source_of_a_number_is_the_nearest_above_it():
    sources = machine(FAST)
    assert sources.source_of("fast.h2d.bytes_per_s") == "paper: page 3"
    assert sources.source_of("fast.h2d.latency_s") == "read: h2d.html"
    assert sources.source_of("disk.read.bytes_per_s") == "estimate: slow"
    assert sources.source_of("host_cores") == ""


@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_its_file_holds_its_cluster(suffix, tmp_path):
    path = tmp_path / f"cluster{suffix}"
    whole = machine(FAST, FAST, SLOW, FAST, host_cores=3, compute_slowdown=(1.0, 1.5))
    whole.write_cluster(path)
    assert read_cluster(path) == whole.cluster
    assert read_cluster(path).digest == whole.cluster.digest


def test_its_file_counts_equal_neighbours_and_names_sources(tmp_path):
    machine(FAST, FAST, SLOW, FAST).write_cluster(tmp_path / "cluster.yaml")
    text = (tmp_path / "cluster.yaml").read_text()
    assert [line for line in text.splitlines() if "count:" in line] == ["- count: 2", "- count: 1", "- count: 1"]
    assert text.startswith("# test: two cards\n# disk: estimate: slow\n")
    assert "null" not in text
