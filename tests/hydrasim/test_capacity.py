"""What the devices offer beside activations and loading zone, and who does not fit into it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hydrasim import Cluster, Device, Mechanism, Shard, TrainingJob
from hydrasim.capacity import arena_bytes, check_fits, zone_bytes
from hydrasim.errors import ShardTooLarge
from hydrasim.mechanism import OURS
from tests.worlds import BLOCK, devices, heavy, workload

LARGE = TrainingJob("A", (Shard(1, 1, BLOCK), Shard(1, 1, 10 * BLOCK, working_bytes=BLOCK)), 1)


def test_an_arena_is_what_the_greediest_unit_leaves_in_whole_alignment_units():
    jobs = workload(heavy("A"), TrainingJob("B", (Shard(1, 1, working_bytes=100),), 1))
    assert arena_bytes(jobs, Cluster((Device(640), Device(199), Device(64)))) == [512, 64, 0]


def test_a_loading_zone_is_a_share_of_the_arena():
    assert zone_bytes(640, Mechanism(loading_zone_fraction=0.25)) == 128  # 160, rounded down to blocks
    assert zone_bytes(640, OURS) is None


def test_a_unit_that_cannot_fit_is_refused_with_the_numbers_and_a_way_out():
    check_fits(workload(LARGE), devices(1, 11), OURS)
    message = (
        r"shard 1 of 'A' needs 640 bytes for state, inputs and outputs; device 0 has 576 left of 640 "
        r"\(activation peak 64, loading zone 0\)\.\n  Cut the model into more shards, lower loading_zone_fraction"
    )
    with pytest.raises(ShardTooLarge, match=message):
        check_fits(workload(LARGE), devices(1, 10), OURS)


def test_the_loading_zone_is_not_for_the_running_unit():
    jobs = workload(heavy("A", blocks=3))
    check_fits(jobs, devices(1, 4), Mechanism(loading_zone_fraction=0.25))
    with pytest.raises(ShardTooLarge, match="device 0 has 128 left of 192 .*loading zone 64"):
        check_fits(jobs, devices(1, 3), Mechanism(loading_zone_fraction=0.4))


def test_a_device_smaller_than_the_activations_says_so():
    jobs = workload(TrainingJob("A", (Shard(1, 1, BLOCK, working_bytes=5 * BLOCK),), 1))
    with pytest.raises(ShardTooLarge, match="device 0 has 0 left of 192 .activation peak 320"):
        check_fits(jobs, devices(1, 3), OURS)


def test_memory_between_alignment_units_is_not_counted():
    cluster = devices(1, 2)
    short = replace(cluster, devices=(replace(cluster.devices[0], memory_bytes=127),))
    with pytest.raises(ShardTooLarge, match="needs 128 bytes .* has 64 left of 127"):
        check_fits(workload(heavy("A", blocks=2)), short, OURS)


@pytest.mark.parametrize(("mode", "blocks"), [("recompute", 2), ("keep", 5), ("spill", 5)])
def test_activations_need_room_beside_state_where_they_are_not_recomputed(mode: str, blocks: int):
    shard = Shard(1, 1, 2 * BLOCK, activation_bytes=3 * BLOCK)
    jobs = workload(TrainingJob("A", (shard,), 1, fused=False, activation_mode=mode))
    check_fits(jobs, devices(1, blocks), OURS)
    with pytest.raises(ShardTooLarge):
        check_fits(jobs, devices(1, blocks - 1), OURS)
