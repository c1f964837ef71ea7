"""Workers are kept between runs, and replaced when they are gone."""

from __future__ import annotations

import pytest
import torch

from executor import CpuDevice, DevicePool, train
from executor.errors import ExecutionError
from tests.executor.worlds import small_job


def test_nothing_starts_before_it_is_needed():
    pool = DevicePool([CpuDevice(1 << 20)])
    assert pool.workers == []
    pool.close()


def test_workers_serve_one_run_after_another(pools):
    pool = pools[1]
    train([small_job()], pool.devices, pool=pool)
    first = [worker.pid for worker in pool.workers]
    train([small_job("B", optimizer=torch.optim.AdamW)], pool.devices, pool=pool)
    assert [worker.pid for worker in pool.workers] == first


def test_a_pool_of_other_devices_is_refused(pools):
    with pytest.raises(ExecutionError, match="made for other devices"):
        train([small_job()], [CpuDevice(1 << 20)], pool=pools[1])


def test_devices_on_one_bus_share_a_clock():
    def device(bus):
        return CpuDevice(1 << 20, link_bytes_per_s=1e9, shared=bus)

    pool = DevicePool([device("a"), device("a"), device("b"), device(""), device(""), CpuDevice(1 << 20)])
    links = [pool._link(index) for index in range(6)]
    assert links[0] == links[1]
    assert len(set(links[:5])) == 4
    assert links[5] is None
    pool.close()
