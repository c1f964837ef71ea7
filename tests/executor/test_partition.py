"""Shards are as large as fits, and no larger."""

from __future__ import annotations

import re

import pytest
from torch import nn

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


class Repeat(nn.Module):
    """Hands on its input many times over."""

    def forward(self, x):
        return x.repeat(1, 200)


class Fold(nn.Module):
    def forward(self, x):
        return x.unflatten(1, (200, -1)).mean(1)


def test_the_first_shards_input_needs_no_room_for_a_gradient():
    # One layer of 16 x 1, batch 300: the input is nearly all that its unit needs beside the peak.
    job = small_job(model=perceptron(16, 1), dataloader=pairs(1, 16, 1, batch=300), cuts=None)
    pilot = JobPilot(job)
    (part,) = partition([pilot], 1 << 20)
    need = part.shards[0].layout.block_bytes + 300 * 16 * 4 + 1216  # 300 targets, aligned
    memory_bytes = 2 * need + -(-part.shards[0].working_bytes // 64) * 64
    assert partition([pilot], memory_bytes)
    with pytest.raises(ShardTooLarge):
        partition([pilot], memory_bytes - 1)


def test_large_activations_of_large_shards_do_not_starve_another_layer():
    # Grown as far as they go, the narrow layers' activations once left too little for the wide job.
    narrow = small_job("A", model=perceptron(*[8] * 12), dataloader=pairs(1, 8, 8, batch=200), cuts=None)
    pilots = [JobPilot(narrow), wide(width=64, layers=1, name="B")]
    parts = partition(pilots, 90_000)
    assert len(parts[0].shards) > 1
    assert max(shard.working_bytes for part in parts for shard in part.shards) < 90_000 - 2 * 17_000


def test_a_cut_where_much_would_be_handed_on_is_avoided():
    # Repeat's output, 200 times its input, fits no arena here; with Fold in the same shard it stays outside.
    job = small_job(
        model=nn.Sequential(nn.Linear(4, 4), Repeat(), Fold(), nn.Linear(4, 2)), dataloader=pairs(1, 4), cuts=None
    )
    (part,) = partition([JobPilot(job)], 45_000)
    assert 2 not in part.cuts


def test_a_refusal_names_memory_that_is_enough():
    pilots = [wide(), wide(width=48, name="B")]
    with pytest.raises(ShardTooLarge) as caught:
        partition(pilots, 12_000)
    (enough,) = re.findall(r"([\d,]+) bytes are enough", str(caught.value))
    assert partition(pilots, int(enough.replace(",", "")))
    with pytest.raises(ShardTooLarge):
        partition(pilots, int(enough.replace(",", "")) - 64)
