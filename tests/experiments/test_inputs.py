"""What is typed becomes a world, or a sentence that says what is wrong."""

import math
from dataclasses import replace

import pytest

from experiments.inputs import parse_bytes, parse_rate, read_inputs
from hydrasim import PAPER, Device, Link
from hydrasim.errors import ClusterError, HydraError, WorkloadError
from hydrasim.machines import MACHINES
from hydrasim.presets import make_preset
from tests.experiments.worlds import measured_on, profile, write_world


@pytest.fixture(autouse=True)
def world(tmp_path, monkeypatch):
    write_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("512", 512),
        ("2GiB", 2**31),
        ("2GB", 2 * 10**9),
        ("1.5k", 1500),
        ("1 MiB", 2**20),
        ("3t", 3 * 10**12),
        ("2gib", 2**31),
    ],
)
def test_sizes(text, expected):
    assert parse_bytes(text) == expected


@pytest.mark.parametrize("text", ["", "GiB", "2XB", "1.2.3GB", "-1GB", "2GiB/s", "nan"])
def test_what_is_no_size(text):
    with pytest.raises(HydraError, match="is not a size; write a number and a unit, such as 2GiB"):
        parse_bytes(text)


def test_rates():
    assert parse_rate("12GB/s") == 12 * 10**9
    for text in ("12GB", "12GB/h", "/s"):
        with pytest.raises(HydraError, match="is not a"):
            parse_rate(text)


def test_a_preset_takes_its_parameters(world):
    inputs = read_inputs(preset="paper-fig7", models=8, devices=4, kind="heterogeneous", scale=0.5, seed=3)
    expected = make_preset("paper-fig7", models=8, devices=4, kind="heterogeneous", units_scale=0.5, seed=3)
    assert (inputs.workload, inputs.cluster, inputs.effects) == (expected.workload, expected.cluster, "theory")
    assert inputs.seed == 3


def test_a_presets_cluster_can_be_replaced_or_changed(world):
    assert read_inputs(preset="paper-fig6", effects="transfers").effects == "transfers"
    changed = read_inputs(preset="paper-fig6", memory="1KiB", link="1KiB/s").cluster
    assert changed.devices == (Device(1024, h2d=Link(1024), d2h=Link(1024)),) * 2
    assert read_inputs(preset="paper-fig7", cluster=world / "cluster.yaml").cluster.devices[0].memory_bytes == 8192


def test_a_workload_file_with_devices_of_the_command_line(world):
    inputs = read_inputs(world / "workload.yaml", devices=3, memory="8KiB", link="1kB/s")
    assert [job.name for job in inputs.workload.jobs] == ["A", "B"]
    assert inputs.cluster.devices == (Device(8192, h2d=Link(1000), d2h=Link(1000)),) * 3
    assert inputs.effects == "overheads"
    assert inputs.profile_digest == ""


def test_a_cluster_file_and_free_copies(world):
    assert len(read_inputs(world / "workload.yaml", cluster=world / "cluster.yaml").cluster.devices) == 2
    free = read_inputs(world / "workload.yaml", devices=1, memory="8KiB").cluster.devices[0]
    assert free.h2d.bytes_per_s == math.inf


def test_a_machine_takes_the_place_of_a_cluster_file(world):
    whole = MACHINES["8x1080ti"].cluster
    assert read_inputs(world / "workload.yaml", machine="8x1080ti").cluster == whole
    few = read_inputs(world / "workload.yaml", machine="8x1080ti", devices=5).cluster
    assert few == replace(whole, devices=whole.devices[:5])
    tight = read_inputs(world / "workload.yaml", machine="8x1080ti", devices=1, memory="1GiB").cluster
    assert tight.devices == (replace(whole.devices[0], memory_bytes=2**30),)
    assert read_inputs(preset="paper-fig7", machine="8x1080ti", devices=2).cluster.devices == whole.devices[:2]


def test_theory_needs_no_memory(world):
    assert len(read_inputs(world / "workload.yaml", devices=2, effects="theory").cluster.devices) == 2


def test_a_profile_brings_its_workload_and_its_seconds(world):
    inputs = read_inputs(world / "profile.json", devices=2, memory="4KiB")
    assert inputs.workload == profile().workload
    assert inputs.cluster == measured_on(2)
    assert inputs.costs.copy_s(1024, 1, "h2d") == 0.5
    assert inputs.profile_digest == profile().digest


def test_a_profile_is_simulated_where_it_was_measured(world):
    profile(cluster=measured_on(2)).write(world / "profile.json")
    assert read_inputs(world / "profile.json").cluster == measured_on(2)
    assert read_inputs(world / "profile.json", devices=5).cluster == measured_on(5)
    smaller = read_inputs(world / "profile.json", memory="2KiB").cluster
    assert smaller.devices[0] == replace(measured_on(1).devices[0], memory_bytes=2048)


def test_the_mechanism_and_its_switches():
    assert read_inputs(preset="paper-fig6", mechanism="paper").mechanism == PAPER
    switched = read_inputs(preset="paper-fig6", mechanism="paper", prefetch=False, loading_zone=0.25).mechanism
    assert switched == replace(PAPER, prefetch=False, loading_zone_fraction=0.25)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({}, WorkloadError, "name either a WORKLOAD file or a --preset"),
        ({"workload": "workload.yaml", "preset": "paper-fig6"}, WorkloadError, "name either a WORKLOAD"),
        ({"workload": "workload.yaml"}, ClusterError, "train: --cluster FILE, --machine NAME, or --devices N"),
        ({"workload": "workload.yaml", "devices": 2}, ClusterError, "say how much memory each device has"),
        ({"workload": "workload.yaml", "models": 2}, WorkloadError, "--models goes with --preset"),
        ({"workload": "workload.yaml", "scale": 0.5}, WorkloadError, "--scale goes with --preset"),
        (
            {"workload": "missing.yaml", "devices": 1, "memory": "1G"},
            WorkloadError,
            "cannot read .*missing.yaml: No such file",
        ),
        (
            {"workload": "cluster.yaml", "devices": 1, "memory": "1G"},
            WorkloadError,
            "cluster.yaml: jobs: Field required",
        ),
        (
            {"workload": "workload.yaml", "cluster": "cluster.yaml", "memory": "1G"},
            ClusterError,
            "--memory does not go with --cluster",
        ),
        (
            {"workload": "workload.yaml", "cluster": "cluster.yaml", "machine": "8xh100"},
            ClusterError,
            "--machine does not go with --cluster",
        ),
        ({"workload": "workload.yaml", "machine": "8xh100", "devices": 9}, ClusterError, "has 8 devices, not 9"),
        ({"workload": "profile.json"}, ClusterError, "say where to train"),
        ({"workload": "jobs.py:jobs", "machine": "8xh100"}, ClusterError, "say --devices N --memory SIZE"),
        (
            {"workload": "profile.json", "devices": 1, "memory": "1G", "link": "1G/s"},
            ClusterError,
            "--link does not go with",
        ),
        ({"preset": "paper-fig6", "devices": 3}, WorkloadError, "--devices does not go with --preset paper-fig6"),
        ({"preset": "paper-fig6", "scale": 0.5}, WorkloadError, "--scale does not go with --preset paper-fig6"),
        ({"preset": "nope", "models": 3}, WorkloadError, "no preset is named 'nope'"),
        ({"preset": "paper-fig6", "loading_zone": 1.5}, HydraError, "loading_zone_fraction is 1.5"),
    ],
)
def test_contradictions_and_mistakes(world, options, error, message):
    paths = {key: world / value for key, value in options.items() if key in ("workload", "cluster")}
    with pytest.raises(error, match=message):
        read_inputs(**options | paths)


def test_a_profile_of_several_kinds_asks_which_is_where(world):
    kinds = profile().kinds
    profile(kinds={"fast": kinds["test"], "slow": kinds["test"]}).write(world / "profile.json")
    with pytest.raises(ClusterError, match="kinds fast, slow; say in a --cluster file which is where"):
        read_inputs(world / "profile.json", devices=2, memory="4KiB")


def test_another_link_leaves_the_machines_bus_and_latency(world):
    there = MACHINES["8x1080ti"].cluster.devices[0].h2d
    given = read_inputs(world / "workload.yaml", machine="8x1080ti", link="1GB/s").cluster.devices[0].h2d
    assert given == replace(there, bytes_per_s=10**9, pageable_bytes_per_s=None)


def test_fewer_devices_are_the_first_of_a_profiles_cluster(world):
    machine = MACHINES["8xh100"].cluster
    replace(profile(), cluster=machine, kinds={"H100 SXM": profile().kinds["test"]}).write(world / "h100.json")
    assert read_inputs(world / "h100.json", devices=3).cluster == replace(machine, devices=machine.devices[:3])


def test_unpinned_copies_are_charged_as_such(world):
    (world / "cluster.yaml").write_text(
        "version: 1\ndevices: [{memory_bytes: 8192, h2d: {bytes_per_s: 1024, pageable_bytes_per_s: 256}}]"
    )
    given = {
        name: read_inputs(world / "workload.yaml", cluster=world / "cluster.yaml", mechanism=name)
        for name in ("ours", "hydra-released")
    }
    assert [inputs.costs.copy_s(1024, 0, "h2d") for inputs in given.values()] == [1.0, 4.0]
