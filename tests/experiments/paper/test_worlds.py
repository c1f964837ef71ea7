"""The paper's grids, and that worlds fit the machines that they are cut for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from experiments.paper.worlds import (
    RIVAL_SHARDS,
    bert_grid,
    gpt2_grid,
    rival_world,
    sharp_world,
    transformers,
    vit_grid,
)
from hydrasim.capacity import check_fits
from hydrasim.errors import ShardTooLarge
from hydrasim.machines import MACHINES
from hydrasim.mechanism import OURS, PAPER

MACHINE = MACHINES["8x1080ti"]
SMALL = transformers(2, 9e7, batch_size=2, num_minibatches=10)


def test_the_grids_are_the_papers():
    assert sum(job.num_minibatches for job in bert_grid()) == 3501 * 4 * 4
    assert [job.num_minibatches for job in vit_grid()[:2]] == [3905, 1950]
    assert {job.num_minibatches for job in gpt2_grid()} == {598, 299}
    assert [len(grid) for grid in (bert_grid(), vit_grid(), gpt2_grid())] == [12, 12, 12]
    assert len({job.name for job in bert_grid()}) == 12


@pytest.mark.parametrize("zone", [0.05, 0.25])
def test_the_loading_zone_is_a_share_of_the_devices_memory(zone: float):
    world = sharp_world(SMALL, MACHINE, mechanism=replace(PAPER, loading_zone_fraction=zone))
    check_fits(world.workload, world.cluster, world.mechanism)
    arena = world.cluster.devices[0].memory_bytes - world.workload.working_bytes
    share = world.mechanism.loading_zone_fraction
    assert share is not None
    assert share * arena == pytest.approx(zone * world.cluster.devices[0].memory_bytes, rel=1e-3)


def test_less_memory_gives_more_shards_until_nothing_fits():
    device = MACHINE.cluster.devices[0]
    counts = []
    for memory_bytes in (device.memory_bytes, 1 << 30, 700 << 20):
        small = replace(
            MACHINE, cluster=replace(MACHINE.cluster, devices=(replace(device, memory_bytes=memory_bytes),))
        )
        world = sharp_world(SMALL, small, mechanism=OURS)
        check_fits(world.workload, world.cluster, OURS)
        counts.append(len(world.workload.jobs[0].shards))
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]
    tiny = replace(MACHINE, cluster=replace(MACHINE.cluster, devices=(replace(device, memory_bytes=1 << 27),)))
    with pytest.raises(ShardTooLarge, match="needs"):
        sharp_world(SMALL, tiny, mechanism=OURS)


def test_given_cuts_are_kept():
    world = sharp_world(SMALL, MACHINE, cuts=lambda _: (2, 5))
    assert [len(job.shards) for job in world.workload.jobs] == [3, 3]


def test_rivals_get_the_same_models_cut_finer():
    rivals, sharp = rival_world(SMALL, MACHINE, num_shards=4), sharp_world(SMALL, MACHINE, precision="fp32")
    for rival, ours in zip(rivals.workload.jobs, sharp.workload.jobs, strict=True):
        assert len(rival.shards) == 4
        assert rival.num_minibatches == ours.num_minibatches == 10
        for field in ("forward_s", "backward_s", "parameter_bytes"):
            whole = [sum(getattr(shard, field) for shard in job.shards) for job in (rival, ours)]
            assert whole[0] == pytest.approx(whole[1], rel=0.01)
    few_layers = rival_world(SMALL, MACHINE, num_shards=RIVAL_SHARDS).workload.jobs[0]
    assert len(few_layers.shards) <= RIVAL_SHARDS


def test_fewer_devices_are_the_machines_first_ones():
    assert sharp_world(SMALL, MACHINE, num_devices=3).cluster.devices == MACHINE.cluster.devices[:3]
