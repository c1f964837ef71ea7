"""Train many models on few devices for real: shards in host memory, units on devices, bits as in plain training."""

from executor.devices import CpuDevice, CudaDevice
from executor.job import TorchJob
from executor.pool import DevicePool
from executor.prepare import Prepared, prepare
from executor.train import JobResult, RunResult, train

__all__ = [
    "CpuDevice",
    "CudaDevice",
    "DevicePool",
    "JobResult",
    "Prepared",
    "RunResult",
    "TorchJob",
    "prepare",
    "train",
]
