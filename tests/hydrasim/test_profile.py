"""Costs: stated, measured, interpolated, written and read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hydrasim import (
    Cluster,
    Device,
    HydraError,
    Link,
    Mechanism,
    Phase,
    Profile,
    Shard,
    ShardUnit,
    TrainingJob,
    simulate,
)
from hydrasim.command import Command, Kind, Lane
from hydrasim.errors import ProfileError
from hydrasim.profile import KindProfile, Measurement, StatedCosts
from tests.worlds import devices, job, workload

UNIT = ShardUnit("A", Phase.LOSS, 0, 5)
JOBS = workload(job("A"))


def once(seconds: float) -> Measurement:
    return Measurement(seconds, seconds, 0.0, 1)


def profile(**changes: object) -> Profile:
    kind = KindProfile(
        {("A", Phase.LOSS, 0): once(4.0)},
        {"h2d": {128: once(2.0), 64: once(1.0), 256: once(8.0)}, "d2h": {64: once(0.5)}},
    )
    return replace(Profile(JOBS, {"simulated": kind}, {"A": once(0.25)}, {"host": "here"}), **changes)


def test_stated_costs_divide_by_speed_and_follow_the_links():
    cluster = Cluster((Device(1, h2d=Link(2.0), d2h=Link(4.0)), Device(1, speed=4.0)))
    jobs = workload(TrainingJob("A", (Shard(1.0, 3.0),), 1, fetch_s=0.5))
    costs = StatedCosts(jobs, cluster)
    assert (costs.compute_s(UNIT, 0), costs.compute_s(UNIT, 1)) == (4.0, 1.0)
    assert (costs.copy_s(8, 0, "h2d"), costs.copy_s(8, 0, "d2h"), costs.copy_s(8, 1, "h2d")) == (4.0, 2.0, 0.0)
    assert costs.fetch_s("A") == 0.5


@pytest.mark.parametrize(
    ("samples", "median_s", "spread"),
    [([2.0], 2.0, 0.0), ([1.0, 2.0, 3.0], 2.0, 0.5), ([1.0, 1.0, 4.0], 1.0, 1.5), ([0.0, 0.0], 0.0, 0.0)],
)
def test_a_measurement_is_a_median_and_an_interquartile_range_over_it(
    samples: list[float], median_s: float, spread: float
):
    assert Measurement.of(samples) == Measurement(sum(samples) / len(samples), median_s, spread, len(samples))


@pytest.mark.parametrize(
    ("nbytes", "seconds"),
    [
        (64, 1.0),
        (96, 1.5),  # between 64 and 128
        (192, 5.0),  # between 128 and 256
        (1, 1.0),  # below the smallest copy there is only its latency
        (512, 16.0),  # beyond the largest, at its rate
    ],
)
def test_copies_are_interpolated_between_measured_sizes(nbytes: int, seconds: float):
    assert profile().costs(devices(1)).copy_s(nbytes, 0, "h2d") == seconds


def test_the_sizes_that_were_measured_are_known():
    costs = profile().costs(devices(1))
    assert costs.copy_sizes(0, "h2d") == [64, 128, 256]
    assert costs.copy_sizes(0, "d2h") == [64]


def test_measured_units_and_fetches_are_looked_up():
    costs = profile().costs(devices(1))
    assert costs.compute_s(UNIT, 0) == 4.0
    assert costs.fetch_s("A") == 0.25
    assert simulate(JOBS, devices(1), "fifo", costs=costs).makespan_s == 4.25


def test_a_first_mini_batch_has_times_of_its_own():
    kind = replace(profile().kinds["simulated"], first_units={("A", Phase.LOSS, 0): once(6.0)})
    costs = profile(kinds={"simulated": kind}).costs(devices(1))
    assert (costs.compute_s(UNIT._replace(minibatch=0), 0), costs.compute_s(UNIT, 0)) == (6.0, 4.0)
    assert profile().costs(devices(1)).compute_s(UNIT._replace(minibatch=0), 0) == 4.0


def test_a_distorted_profile_is_off_by_what_was_asked_for():
    kind = replace(profile().kinds["simulated"], first_units={("A", Phase.LOSS, 0): once(6.0)})
    costs = profile(kinds={"simulated": kind}).distorted(lambda unit: 2.0, lambda nbytes: nbytes / 64).costs(devices(1))
    assert (costs.compute_s(UNIT, 0), costs.compute_s(UNIT._replace(minibatch=0), 0)) == (8.0, 12.0)
    assert (costs.copy_s(64, 0, "h2d"), costs.copy_s(256, 0, "h2d")) == (1.0, 32.0)
    assert costs.fetch_s("A") == 0.25


def test_dispatch_is_charged_where_overheads_are():
    # without prefetch the second and third unit are issued half a second after the end before them
    slow = profile(dispatch=once(0.5), fetches={"A": once(0.0)})
    jobs = workload(job("A", minibatches=2), job("B"))
    kind = KindProfile({(name, Phase.LOSS, 0): once(4.0) for name in "AB"}, slow.kinds["simulated"].copies)
    costs = replace(slow, kinds={"simulated": kind}, fetches={"A": once(0.0), "B": once(0.0)}).costs(devices(1))
    assert simulate(jobs, devices(1), "fifo", costs=costs, effects="contention").makespan_s == 12.0
    one_by_one = Mechanism(prefetch=False)
    assert simulate(jobs, devices(1), "fifo", costs=costs, mechanism=one_by_one).makespan_s == 13.0


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: profile().costs(devices(1, kind="gpu")), "no device kind 'gpu'; it has simulated"),
        (lambda: profile().costs(devices(1)).compute_s(ShardUnit.parse("A/F0#0"), 0), "no time for A/F0#0 on device 0"),
        (lambda: profile().costs(devices(1)).fetch_s("B"), "no fetch time for job 'B'"),
        (
            lambda: profile(kinds={"simulated": KindProfile()}).costs(devices(1)).copy_s(1, 0, "d2h"),
            "no d2h copies on device 0",
        ),
    ],
)
def test_what_was_not_measured_is_an_error(ask: object, message: str):
    with pytest.raises(ProfileError, match=message):
        ask()  # type: ignore[operator]


@pytest.mark.parametrize("cluster", [None, Cluster((Device(64, h2d=Link(8.0, 0.5)), Device(128, speed=2.0)))])
def test_a_profile_survives_its_file(tmp_path: Path, cluster: Cluster | None):
    path = tmp_path / "profile.json"
    written = profile(cluster=cluster)
    written.write(path)
    assert Profile.read(path) == written
    assert Profile.read(path).digest == written.digest


def test_the_digest_is_that_of_what_a_simulation_reads():
    assert profile().digest == profile(provenance={"host": "there"}).digest
    assert profile().digest != profile(fetches={"A": once(0.5)}).digest


def edited(tmp_path: Path, *where: object, value: object) -> Path:
    """Write the profile with one field changed, or left out when the value is Ellipsis."""
    path = tmp_path / "profile.json"
    profile().write(path)
    content = found = json.loads(path.read_text())
    for part in where[:-1]:
        found = found[part]
    if value is ...:
        del found[where[-1]]
    else:
        found[where[-1]] = value
    path.write_text(json.dumps(content))
    return path


UNITS = ("kinds", "simulated", "units", 0)


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("version",), 2, "version: Input should be 1"),
        (("version",), ..., "version: Field required"),
        ((*UNITS, "median_s"), -1.0, r"kinds\.simulated\.units\.0\.median_s: "),
        ((*UNITS, "median_s"), float("inf"), r"kinds\.simulated\.units\.0\.median_s: "),
        ((*UNITS, "median_s"), float("nan"), r"kinds\.simulated\.units\.0\.median_s: "),
        ((*UNITS, "phase"), "Q", r"kinds\.simulated\.units\.0\.phase: "),
        ((*UNITS, "num_samples"), 0, r"kinds\.simulated\.units\.0\.num_samples: "),
        (("kinds", "simulated", "copies"), {"up": []}, r"kinds\.simulated\.copies\.up"),
        (("fetches",), [], "fetches: "),
        (("workload", "jobs"), [], r"workload\.jobs: "),
        (("workload", "jobs", 0, "name"), "a b", "job name 'a b': use letters"),
        (("cluster",), {"devices": [{"memory_bytes": 1, "speed": float("inf")}]}, "device: speed is inf"),
    ],
)
def test_a_malformed_profile_is_refused_with_the_field(
    tmp_path: Path, where: tuple[object, ...], value: object, message: str
):
    with pytest.raises(ProfileError, match=r"profile\.json: " + message):
        Profile.read(edited(tmp_path, *where, value=value))


def test_a_truncated_profile_is_refused_wherever_it_breaks_off(tmp_path: Path):
    path = tmp_path / "profile.json"
    profile().write(path)
    text = path.read_text().rstrip()
    for length in range(len(text)):
        path.write_text(text[:length])
        with pytest.raises(HydraError, match=r"profile\.json"):
            Profile.read(path)


def command(kind: Kind, unit: ShardUnit = UNIT, device: int = 0, nbytes: int = 0) -> Command:
    return Command(0, kind, device, Lane.COMPUTE, unit, nbytes=nbytes)


def test_what_was_not_measured_or_only_once_varies_as_the_cluster_states():
    often = Measurement(4.0, 4.0, 1.349, 8)
    measured = profile(kinds={"simulated": replace(profile().kinds["simulated"], units={("A", Phase.LOSS, 0): often})})
    costs = measured.costs(Cluster((Device(1 << 20),), variation=0.25))
    assert costs.variation(command(Kind.COMPUTE)) == 1.0
    assert costs.variation(command(Kind.COMPUTE, UNIT._replace(phase=Phase.FORWARD))) == 1.0  # known only as L
    assert costs.variation(command(Kind.LOAD, nbytes=64)) == costs.variation(command(Kind.FETCH, device=-1)) == 0.25
    assert costs.variation(command(Kind.READ, device=-1)) == costs.variation(command(Kind.SEND)) == 0.25


def test_a_cluster_states_the_slowdown_and_dispatch_that_a_profile_lacks():
    cluster = replace(devices(3), compute_slowdown=(1.0, 1.5), dispatch_s=0.5)
    for costs in (profile().costs(cluster), StatedCosts(JOBS, cluster)):
        assert [costs.slowdown("A", count) for count in (1, 2, 3)] == [1.0, 1.5, 1.5]
        assert costs.dispatch_s() == 0.5
    measured = profile(slowdowns={"A": 2.0}, dispatch=once(0.25)).costs(cluster)
    assert [measured.slowdown("A", count) for count in (1, 2, 3)] == [1.0, 1.5, 2.0]
    assert measured.dispatch_s() == 0.25
