"""Delays and poison at random change nothing: the orders that commands wait for are enough."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from executor import CpuDevice, DevicePool, prepare, train
from executor.chaos import Chaos
from hydrasim.command import Command, Kind, Lane
from hydrasim.dataflow import BlockKey
from hydrasim.mechanism import HYDRA_RELEASED, OURS, PAPER
from hydrasim.workload import ShardUnit
from tests.executor.worlds import differences, expected, pairs, perceptron, small_job

NUM_SEEDS = 50
MECHANISMS = [OURS, PAPER, HYDRA_RELEASED, replace(OURS, write_back="through"), replace(OURS, store_clean=True)]
POLICIES = ["random", "sharded-lrtf", "resident-lrtf"]


def make_jobs():
    return [
        small_job(
            name, 3, torch.nn.Sequential(perceptron(16, 24, seed=seed), torch.nn.Dropout(0.2), perceptron(24, 2)),
            dataloader=pairs(3, 16, 2), optimizer=lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
            seed=seed, cuts=cuts,
        )
        for name, seed, cuts in (("A", 1, (1, 2)), ("B", 2, (2,)), ("C", 3, ()))
    ]  # fmt: skip


@pytest.fixture(scope="module")
def devices():
    """Two devices on which the largest unit just fits beside the loading zone."""
    roomy = prepare(make_jobs(), [CpuDevice(1 << 20)]).workload
    largest = max(shard.state_bytes + 1024 for job in roomy.jobs for shard in job.shards)
    return [CpuDevice(roomy.working_bytes + int(largest / 0.85))] * 2


@pytest.fixture(scope="module")
def world(devices):
    prepared = prepare(make_jobs(), devices)
    answers = [expected(part.job) for part in prepared.partitions]
    with DevicePool(devices) as pool:
        yield prepared, answers, pool


@pytest.mark.parametrize("seed", range(NUM_SEEDS))
def test_chaos_changes_no_bit(seed, world):
    prepared, answers, pool = world
    jobs = make_jobs()
    parts = tuple(replace(part, job=job) for part, job in zip(prepared.partitions, jobs, strict=True))
    result = train(
        replace(prepared, partitions=parts), policy=POLICIES[seed % 3], mechanism=MECHANISMS[seed % 5],
        seed=seed, pool=pool, chaos_seed=seed,
    )  # fmt: skip
    assert sum((differences(job, result, answer) for job, answer in zip(jobs, answers, strict=True)), []) == []


def test_poison_covers_the_arena_and_what_a_load_will_fill():
    memory = CpuDevice(1 << 10).open(256, 256, None)
    arena, chaos = memory.arena, Chaos(0, memory)
    assert arena.view(torch.float32).isnan().all()
    arena.zero_()
    unit = ShardUnit.parse("A/F0#0")
    chaos.before(
        Command(0, Kind.LOAD, 0, Lane.H2D, unit, block=BlockKey("w", "A", 0, -1), start=64, nbytes=64, offset=64)
    )
    assert arena[128:192].unique().tolist() == [0xFF]
    assert arena[:128].sum() + arena[192:].sum() == 0
