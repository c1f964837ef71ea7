"""Shards are as large as fits, and no larger."""

from __future__ import annotations

import pytest

from executor.partition import partition
from executor.pilot import JobPilot
from hydrasim.errors import ShardTooLarge
from tests.executor.worlds import pairs, perceptron, small_job


def wide(width=32, layers=6, name="A", cuts=None):
    model = perceptron(*[width] * (layers + 1))
    return JobPilot(small_job(name, model=model, dataloader=pairs(1, width, width), cuts=cuts))


def test_plenty_of_memory_gives_one_shard():
    (part,) = partition([wide()], 1 << 20)
    assert part.cuts == ()


def test_less_memory_gives_more_shards_and_every_layer_once():
    lengths = []
    for memory_bytes in (100_000, 50_000, 25_000):
        (part,) = partition([wide()], memory_bytes)
        lengths.append(len(part.shards))
        assert sum(len(layers) for layers in part.job.shards(part.cuts)) == 6
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


def test_a_unit_fits_into_half_of_what_the_peak_leaves():
    (part,) = partition([wide()], 30_000)
    peak = max(shard.working_bytes for shard in part.shards)
    assert all(shard.layout.block_bytes <= (30_000 - peak) / 2 for shard in part.shards)


def test_a_loading_zone_takes_its_fraction_instead_of_half():
    (half,) = partition([wide()], 30_000)
    (zone,) = partition([wide()], 30_000, loading_zone_fraction=0.05)
    assert len(zone.shards) < len(half.shards)


def test_one_job_with_a_high_peak_makes_others_cut_smaller():
    alone = partition([wide(name="B")], 100_000)[0]
    greedy = small_job("A", model=[perceptron(4, 100, 2)], dataloader=pairs(1, batch=40), cuts=None)
    beside = partition([JobPilot(greedy), wide(name="B")], 100_000)[1]
    assert len(beside.shards) > len(alone.shards)


def test_the_users_cuts_are_kept():
    (part,) = partition([wide(cuts=(1, 4))], 1 << 20)
    assert part.cuts == (1, 4)
    assert [len(shard.layout.parameters) for shard in part.shards] == [2, 6, 4]


def test_a_layer_that_fits_nowhere_is_refused_with_numbers():
    with pytest.raises(ShardTooLarge, match=r"layer 0 of 'A' needs [\d,]+ bytes .*\n  Split the layer"):
        partition([wide()], 8_000)
