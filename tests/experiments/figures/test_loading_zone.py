"""The loading zone: what is kept from shards is there for prefetching, and larger zones help equal cuts."""

import pytest

from experiments.figures import loading_zone
from experiments.figures.loading_zone import zone_world
from experiments.paper.runs import Run, run_one


@pytest.fixture(scope="module")
def frame():
    return loading_zone.run(smoke=True)


def test_keys_name_rows(frame):
    assert not frame.duplicated(list(loading_zone.ABOUT.keys)).any()


def test_ratios_are_to_the_least_of_a_machine(frame):
    assert frame.groupby("machine")["ratio"].min().tolist() == [1.0, 1.0]
    assert not frame["error"].any()


def test_draws_a_line_for_each_machine(frame):
    top, bottom = loading_zone.draw(frame).axes
    assert len(top.get_lines()) == 2 * 3
    assert len(bottom.get_lines()) == 2 + 1


def test_a_zone_is_a_share_of_the_device_and_none_means_no_prefetch():
    without, some = zone_world("8x1080ti", 0.0), zone_world("8x1080ti", 0.10)
    assert not without.mechanism.prefetch
    assert some.mechanism.prefetch
    memory, peak = some.cluster.devices[0].memory_bytes, some.workload.working_bytes
    assert some.mechanism.loading_zone_fraction * (memory - peak) == pytest.approx(0.10 * memory, rel=1e-6)
    assert len(without.workload.jobs[-1].shards) <= len(some.workload.jobs[-1].shards)


def test_with_equal_cuts_prefetching_is_faster_than_not():
    large = zone_world("8x1080ti", 0.25)
    worlds = [zone_world("8x1080ti", zone, cut_as=large) for zone in (0.0, 0.05, 0.25)]
    assert {len(world.workload.jobs[0].shards) for world in worlds} == {len(large.workload.jobs[0].shards)}
    none, little, much = (run_one(Run(world), 8).makespan_s for world in worlds)
    assert none > little > much
