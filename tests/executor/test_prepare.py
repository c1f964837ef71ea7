"""User jobs in the simulator's words."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from executor import CpuDevice, DevicePool, prepare, train
from executor.errors import DeviceError, JobError
from hydrasim.errors import ShardTooLarge, WorkloadError
from tests.executor.worlds import pairs, perceptron, small_job


def test_shards_become_shards_and_epochs_epochs():
    prepared = prepare([small_job(steps=3, epochs=2)], [CpuDevice(1 << 20)])
    (job,) = prepared.workload.jobs
    assert (job.minibatches, job.epochs, job.fused) == (3, 2, True)
    assert [(shard.parameter_bytes, shard.optimizer_bytes) for shard in job.shards] == [(192, 0), (128, 0)]
    assert [shard.output_bytes for shard in job.shards] == [128, 0]
    assert (job.input_bytes, job.target_bytes) == (64, 64)


def test_limited_stops_every_job_early():
    prepared = prepare([small_job(steps=3, epochs=2), small_job("B", steps=2)], [CpuDevice(1 << 20)]).limited(4)
    assert [job.num_minibatches for job in prepared.workload.jobs] == [4, 2]


def test_constant_buffers_of_all_models_are_set_apart():
    class Masked(nn.Linear):
        def __init__(self):
            super().__init__(4, 2)
            self.register_buffer("mask", torch.ones(1000))

    jobs = [small_job(name, model=nn.Sequential(Masked()), cuts=()) for name in "AB"]
    prepared = prepare(jobs, [CpuDevice(1 << 20)])
    assert prepared.cluster.devices[0].memory_bytes == (1 << 20) - 8000


def test_the_smallest_device_decides():
    job = small_job(model=perceptron(*[32] * 7), dataloader=pairs(1, 32, 32), cuts=None)
    large = prepare([job], [CpuDevice(1 << 20)])
    small = prepare([job], [CpuDevice(1 << 20), CpuDevice(25_000)])
    assert len(small.partitions[0].shards) > len(large.partitions[0].shards)


def test_names_must_differ_and_there_must_be_a_device():
    with pytest.raises(WorkloadError, match="two jobs are named 'A'"):
        prepare([small_job(), small_job()], [CpuDevice(1 << 20)])
    with pytest.raises(DeviceError, match="no devices"):
        prepare([small_job()], [])


def test_two_jobs_cannot_train_one_model():
    job = small_job()
    with pytest.raises(JobError, match="jobs 'A' and 'B' train the same model"):
        prepare([job, small_job("B", model=job.model)], [CpuDevice(1 << 20)])


def test_jobs_may_share_what_neither_trains():
    frozen = nn.Linear(4, 8).requires_grad_(False)
    jobs = [small_job(name, model=nn.Sequential(frozen, nn.Linear(8, 2))) for name in "AB"]
    assert len(prepare(jobs, [CpuDevice(1 << 20)]).workload.jobs) == 2


def test_a_layer_too_large_is_refused_before_any_process_starts():
    pool = DevicePool([CpuDevice(4_000)])
    job = small_job(model=perceptron(32, 64, 32), dataloader=pairs(1, 32, 32), cuts=None)
    with pytest.raises(ShardTooLarge, match="layer 0 of 'A'"):
        prepare([job], pool.devices)
    cut = small_job(model=job.model, dataloader=job.dataloader, cuts=(1,))
    with pytest.raises(ShardTooLarge, match="shard 0 of 'A'"):
        train([cut], pool.devices, pool=pool)
    assert pool.workers == []


def test_updates_go_where_a_simulation_ends_sooner():
    def found(memory_bytes):
        job = small_job(
            model=perceptron(4, 256, 256, 256, 2), cuts=(1, 2, 3), steps=4, update_on="auto",
            optimizer=lambda p: torch.optim.AdamW(p, lr=0.1),
        )  # fmt: skip
        return prepare([job], [CpuDevice(memory_bytes, link_bytes_per_s=20e6)]).workload.jobs[0].host_updates

    assert found(5 << 19) == "each"  # moving the optimizer's state takes all the time
    assert found(64 << 20) == "no"  # nothing has to move


def test_what_the_host_cannot_update_is_updated_on_devices():
    normed = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))
    prepared = prepare([small_job(model=normed, update_on="auto")], [CpuDevice(1 << 20, link_bytes_per_s=1e5)])
    assert prepared.workload.jobs[0].host_updates == "no"
    assert prepared.partitions[0].job.update_on == "device"
    with pytest.raises(JobError, match="update_on is 'cpu'; it is device, host, auto"):
        small_job(update_on="cpu")
