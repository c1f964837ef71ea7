"""Stages are contiguous, as even as can be, and in memory if any are."""

from __future__ import annotations

from itertools import combinations
from random import Random

import pytest

from hydrasim import Cluster, Device, Link, Shard, TrainingJob, Workload
from hydrasim.systems import simulate_system
from hydrasim.systems.deepspeed_mp import DeepspeedMP
from hydrasim.systems.deepspeed_mp_data import DeepspeedMPData
from hydrasim.systems.stages import Stage, balance, input_bytes, part_of, temporary_bytes
from tests.worlds import spans, times


def all_cuts(num_shards: int, num_stages: int) -> list[list[Stage]]:
    return [
        [range(start, end) for start, end in zip((0, *cuts), (*cuts, num_shards), strict=True)]
        for cuts in combinations(range(1, num_shards), num_stages - 1)
    ]


@pytest.mark.parametrize("seed", range(200))
def test_the_longest_stage_is_as_short_as_brute_force_makes_it(seed: int):
    rng = Random(seed)
    num_shards = rng.randint(1, 8)
    num_stages = rng.randint(1, num_shards)
    seconds = [rng.randint(0, 8) / 4 for _ in range(num_shards)]
    sizes = [rng.randint(1, 8) for _ in range(num_shards)]
    speeds = [rng.choice((1, 2)) for _ in range(num_stages)]
    rooms = [rng.randint(8, 24) for _ in range(num_stages)]

    def stage_s(order: int, stage: Stage) -> float:
        return sum(seconds[shard] for shard in stage) / speeds[order]

    def fits(order: int, stage: Stage) -> bool:
        return sum(sizes[shard] for shard in stage) <= rooms[order]

    def longest_s(stages: list[Stage]) -> float:
        return max(stage_s(order, stage) for order, stage in enumerate(stages))

    cuts = all_cuts(num_shards, num_stages)
    fitting = [stages for stages in cuts if all(fits(order, stage) for order, stage in enumerate(stages))]
    found = list(balance(num_shards, num_stages, stage_s, fits))
    assert found in (fitting or cuts)
    assert longest_s(found) == min(map(longest_s, fitting or cuts))


def test_few_shards_make_few_stages():
    assert balance(2, 4, lambda _, stage: float(len(stage)), lambda *_: True) == (range(1), range(1, 2))


def test_a_slower_device_gets_less():
    shards = (Shard(1.0, 1.0),) * 3
    cluster = Cluster((Device(64, speed=0.5), Device(64)))
    assert DeepspeedMP().stages(TrainingJob("A", shards, 1), cluster, (0, 1)) == (range(1), range(1, 3))


def test_a_smaller_device_gets_less():
    shards = (Shard(1.0, 1.0, parameter_bytes=8),) * 4  # and as much for gradients
    cluster = Cluster((Device(16), Device(48)))
    assert DeepspeedMP().stages(TrainingJob("A", shards, 1), cluster, (0, 1)) == (range(1), range(1, 4))
    assert DeepspeedMP().memory_bytes(TrainingJob("A", shards, 1), cluster, (0, 1)) == [16, 48]


def test_devices_without_a_stage_need_nothing():
    job = TrainingJob("A", (Shard(1.0, 1.0, parameter_bytes=8),), 1)
    assert DeepspeedMP().memory_bytes(job, Cluster.of(3, Device(64)), (0, 1, 2)) == [16, 0, 0]


def test_state_is_loaded_before_a_job_and_stored_after_it():
    # h2d      L  L  .  .  .  .  .  .
    # compute  .  .  F  B  B  .  .  .      and so on, twice; replicas load all, and one of them stores
    # d2h                           S S
    job = TrainingJob("A", (Shard(1.0, 2.0, parameter_bytes=8, optimizer_bytes=8),) * 2, 2)
    cluster = Cluster.of(2, Device(1 << 10, h2d=Link(8), d2h=Link(8), peer=Link()))
    timeline = simulate_system(Workload((job,)), cluster, "deepspeed-mp")
    assert times(timeline, "load") == [(0.0, 2.0)] * 2
    assert times(timeline, "store") == [(14.0, 16.0)] * 2
    assert timeline.makespan_s == 2.0 + 2 * 6.0 + 2.0
    timeline = simulate_system(Workload((job,)), cluster, DeepspeedMPData(replicas=2))
    assert [(span.device, span.nbytes) for span in spans(timeline, "load")] == [(0, 32), (1, 32)]
    assert [(span.device, span.nbytes) for span in spans(timeline, "store")] == [(0, 32)]


def test_what_shards_are_given_and_what_units_need_beside():
    shard = Shard(1.0, 1.0, parameter_bytes=8, output_bytes=2, working_bytes=32, activation_bytes=16)
    job = TrainingJob("A", (shard,) * 2, 1, input_bytes=5)
    assert [input_bytes(job, 0), input_bytes(job, 1)] == [5, 2]
    assert temporary_bytes(job, range(2)) == 32 - 16 - 8
    assert [part_of(8, 4), part_of(9, 4)] == [2, 3]
