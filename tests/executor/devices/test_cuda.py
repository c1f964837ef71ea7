"""What can be said of GPUs without one; with one, a run is exact against the loop on that GPU."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional

from executor import CudaDevice, train
from executor.compare_state import identical
from executor.errors import DeviceError
from executor.reference import train_plain
from tests.executor.worlds import pairs, perceptron, small_job

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_the_error_says_so_before_anything_runs():
    with pytest.raises(DeviceError, match="no CUDA device is available here; use --device cpu"):
        train([small_job()], [CudaDevice()])


def test_a_gpu_is_plain_data():
    assert CudaDevice(1, 1 << 30) == CudaDevice(index=1, memory_bytes=1 << 30)


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(DeviceError, match=f"there is no CUDA device {torch.cuda.device_count()}"):
        CudaDevice(torch.cuda.device_count()).describe()


@pytest.mark.gpu
@needs_gpu
def test_memory_is_nearly_all_unless_stated():
    assert CudaDevice(0, 1 << 20).describe().memory_bytes == 1 << 20
    total = torch.cuda.get_device_properties(0).total_memory
    assert total / 2 < CudaDevice(0).describe().memory_bytes < total


@pytest.mark.gpu
@needs_gpu
def test_training_on_a_gpu_is_exact():
    jobs = [small_job(name, 3, perceptron(4, 8, 2, seed=seed), dataloader=pairs(3)) for seed, name in enumerate("AB")]
    wanted = []
    for job in jobs:
        model = copy.deepcopy(job.module)
        losses, _ = train_plain(model, functional.mse_loss, job.dataloader, job.optimizer, device="cuda")
        wanted.append((dict(model.named_parameters()), tuple(losses)))
    result = train(jobs, [CudaDevice(0, 1 << 24)])
    for job, (weights, losses) in zip(jobs, wanted, strict=True):
        assert identical(dict(job.module.named_parameters()), weights) == []
        assert result.jobs[job.name].losses == losses
