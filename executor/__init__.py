"""Train many models on few devices for real: shards in host memory, units on devices, bits as in plain training."""

from executor.callbacks import CsvLog, EarlyStopping, LiveTable, MinibatchDone, TensorBoardLog
from executor.devices import CpuDevice, CudaDevice
from executor.grid import grid
from executor.job import TorchJob
from executor.master_weights import MasterWeights
from executor.pool import DevicePool
from executor.prepare import Prepared, prepare
from executor.train import JobResult, RunResult, train

__all__ = [
    "CpuDevice",
    "CsvLog",
    "CudaDevice",
    "DevicePool",
    "EarlyStopping",
    "JobResult",
    "LiveTable",
    "MasterWeights",
    "MinibatchDone",
    "Prepared",
    "RunResult",
    "TensorBoardLog",
    "TorchJob",
    "grid",
    "prepare",
    "train",
]
