"""Every machine: whole, sourced to the last number, and as large as the paper and the vendors say."""

import re
from datetime import date

import pytest

from hydrasim import Shard, TrainingJob, Workload, simulate
from hydrasim.cluster import GIB
from hydrasim.files import read_cluster
from hydrasim.machines import GTX_1080_TI, MACHINES, RTX_2080_TI, RTX_4090

EVERY = pytest.mark.parametrize("machine", MACHINES.values(), ids=list(MACHINES))


@EVERY
def test_every_number_has_a_source(machine):
    for path in machine.constants():
        assert re.match("(paper|read|remembered|estimate): .", machine.source_of(path)), path


@EVERY
def test_no_source_is_of_nothing(machine):
    paths = [*machine.constants(), "RTX 2080 Ti.peer"]  # why there is none
    for key in machine.sources:
        assert any(path == key or path.startswith(f"{key}.") for path in paths), key


@EVERY
def test_a_price_has_a_date_and_a_source(machine):
    if machine.price_usd_per_hour is None:
        assert (machine.price_source, machine.price_date) == ("", "")
    else:
        assert machine.price_usd_per_hour > 0
        assert "https://" in machine.price_source
        assert date.fromisoformat(machine.price_date) <= date(2026, 11, 23)


@EVERY
@pytest.mark.parametrize("suffix", [".yaml", ".json"])
def test_every_file_holds_the_cluster(machine, suffix, tmp_path):
    machine.write_cluster(tmp_path / f"cluster{suffix}")
    assert read_cluster(tmp_path / f"cluster{suffix}") == machine.cluster


@EVERY
def test_devices_are_the_cards(machine):
    for device in machine.cluster.devices:
        assert device.memory_bytes == machine.accelerators[device.kind].memory_bytes
    assert set(machine.accelerators) == {device.kind for device in machine.cluster.devices}
    assert MACHINES[machine.name] is machine


@EVERY
def test_links_are_slower_than_what_they_run_over(machine):
    buses = {bus.name: bus.bytes_per_s for bus in machine.cluster.buses}
    for device in machine.cluster.devices:
        for link in (device.h2d, device.d2h):
            assert (link.pageable_bytes_per_s or 0) <= link.bytes_per_s <= buses.get(link.shared, link.bytes_per_s)
            assert link.bytes_per_s < machine.cluster.host_bytes_per_s


@EVERY
def test_every_machine_can_be_simulated(machine):
    job = TrainingJob("A", (Shard(1.0, 1.0, parameter_bytes=GIB, output_bytes=1024),) * 2, 1)
    assert simulate(Workload((job,)), machine.cluster, "fifo").makespan_s > 3.0


def test_the_papers_machines():
    first, second = (MACHINES[name] for name in ("8x1080ti", "8x2080ti"))
    assert (first.accelerator, second.accelerator) == (GTX_1080_TI, RTX_2080_TI)
    assert [len(machine.cluster.devices) for machine in (first, second)] == [8, 8]
    assert [machine.cluster.host_cores for machine in (first, second)] == [10, 80]
    assert [machine.cluster.host_memory_bytes for machine in (first, second)] == [512 * GIB, 500 * 10**9]


def test_switches_are_shared_by_neighbours():
    assert [d.h2d.shared for d in MACHINES["8x1080ti"].cluster.devices] == ["switch0"] * 4 + ["switch1"] * 4
    shared = [device.d2h.shared for device in MACHINES["8xa100-40gb"].cluster.devices]
    assert shared == [f"switch{index // 2}" for index in range(8)]


def test_only_nvswitch_hosts_have_peer_links():
    with_peers = {name for name, machine in MACHINES.items() if machine.cluster.devices[0].peer is not None}
    assert with_peers == {"8xa100-40gb", "8xh100"}


def test_unequal_cards_have_the_speeds_of_their_peaks():
    new, old = MACHINES["4090-2080ti"].cluster.devices
    ratio = RTX_2080_TI.flops_per_s["fp32"] / RTX_4090.flops_per_s["fp32"]
    assert (new.speed, old.speed) == (1.0, round(ratio, 3))


def test_speed_is_one_among_equals():
    assert {device.speed for name in ("8x1080ti", "8xh100") for device in MACHINES[name].cluster.devices} == {1.0}
