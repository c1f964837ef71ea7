"""What is foretold before anything is measured: seconds of the pilots, and copies that take a core's time."""

from __future__ import annotations

from dataclasses import replace

import pytest

from executor import CpuDevice, prepare
from executor.foretell import foretold_s
from hydrasim.errors import ShardTooLarge
from tests.executor.worlds import pairs, perceptron, small_job


def prepared(device):
    model = perceptron(*[64] * 9)
    return prepare([small_job("A", model=model, dataloader=pairs(4, 64, 64), cuts=None, steps=2)], [device])


def test_slower_cores_copy_for_longer():
    jobs = prepared(CpuDevice(300_000))
    assert foretold_s(jobs, 1e6) > foretold_s(jobs, 1e8) > 0


def test_links_of_a_stated_speed_keep_it():
    jobs = prepared(CpuDevice(300_000, link_bytes_per_s=1e5))
    moved_s = sum(shard.layout.block_bytes for shard in jobs.partitions[0].shards) / 1e5
    assert foretold_s(jobs, 1e12) > moved_s


def test_what_does_not_fit_is_refused():
    jobs = replace(prepared(CpuDevice(300_000)), devices=(CpuDevice(100_000),))
    with pytest.raises(ShardTooLarge):
        foretold_s(jobs, 1e9)
