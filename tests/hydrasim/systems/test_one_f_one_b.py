"""1F1B is as long as GPipe with less in memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hydrasim.errors import SystemRefused
from hydrasim.systems import simulate_system
from hydrasim.systems.gpipe import GPipe
from hydrasim.systems.one_f_one_b import OneFOneB
from tests.hydrasim.systems.pipelines import most_alive, one, peers, stack
from tests.worlds import times, units

SIZES = [(stages, count) for stages in (1, 2, 3, 5, 8) for count in (1, 2, 3, 4, 8, 16)]


@pytest.mark.parametrize(("stages", "count"), SIZES)
def test_equal_stages_have_gpipes_bubble(stages: int, count: int):
    timeline = simulate_system(one(stack([1.0] * stages)), peers(stages), OneFOneB(count), effects="theory")
    assert timeline.makespan_s == pytest.approx((count + stages - 1) / count * 3.0, abs=1e-9)


@pytest.mark.parametrize(("stages", "count"), SIZES)
def test_a_stage_has_no_more_on_its_way_than_stages_to_the_end(stages: int, count: int):
    timeline = simulate_system(one(stack([1.0] * stages)), peers(stages), OneFOneB(count))
    alive = [most_alive(timeline, device) for device in range(stages)]
    assert alive == [min(stages - device, count) for device in range(stages)]
    gpipe = simulate_system(one(stack([1.0] * stages)), peers(stages), GPipe(count, "never"))
    assert [most_alive(gpipe, device) for device in range(stages)] == [count] * stages


def test_forwards_and_backwards_alternate():
    # device 1  .  F0 B0 B0 F1 B1 B1 F2 B2 B2 .  .          forwards take 1, backwards 2
    # device 0  F0 F1 .  .  B0 B0 F2 B1 B1 .  B2 B2
    timeline = simulate_system(one(stack([3.0, 3.0])), peers(2), OneFOneB(3))
    assert units(timeline, 0) == ["A/F0#0", "A/F0#1", "A/B0#0", "A/F0#2", "A/B0#1", "A/B0#2"]
    assert units(timeline, 1) == ["A/F1#0", "A/B1#0", "A/F1#1", "A/B1#1", "A/F1#2", "A/B1#2"]
    assert times(timeline, "compute", "A/B0#2") == [(10.0, 12.0)]


def test_forwards_run_again_once_the_gradient_is_there():
    timeline = simulate_system(one(stack([2.0, 2.0])), peers(2), OneFOneB(2, "always"))
    # device 1  .  F0 F0 B0 B0 F1 F1 B1 B1
    # device 0  F0 F1 .  .  .  F0 B0 B0 .  F1 B1 B1
    assert times(timeline, "compute", "A/F0#0") == [(0.0, 1.0), (5.0, 6.0)]
    assert timeline.makespan_s == 12.0


def test_memory_falls_from_stage_to_stage():
    job = replace(stack([1.0] * 4, output_bytes=8, activation_bytes=40), input_bytes=8)
    cluster, devices = peers(4), (0, 1, 2, 3)
    assert OneFOneB(8).memory_bytes(job, cluster, devices) == [8 + 4 * 5, 3 * 5, 2 * 5, 5]  # all inputs are loaded
    assert GPipe(8, "never").memory_bytes(job, cluster, devices) == [8 + 8 * 5, 8 * 5, 8 * 5, 8 * 5]


def test_inputs_and_targets_that_are_loaded_need_room():
    job = replace(stack([1.0, 1.0]), input_bytes=6400, target_bytes=10_048)
    with pytest.raises(SystemRefused, match=r"needs 6,400 bytes of device 0 for 'A'; it has 100"):
        simulate_system(one(job), peers(2, memory_bytes=100), OneFOneB(64))
    assert simulate_system(one(job), peers(2), OneFOneB(64)).header["peak_bytes"] == [6400, 10_048]


def test_keeping_only_the_last_is_not_for_it():
    with pytest.raises(SystemRefused, match="1f1b: recompute is 'except_last'; it is one of always, never"):
        OneFOneB(recompute="except_last")
