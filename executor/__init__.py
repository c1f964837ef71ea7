"""Train many models on few devices for real: shards in host memory, units on devices, bits as in plain training."""

from executor.callbacks import CsvLog, EarlyStopping, EvaluationDone, LiveTable, MinibatchDone, TensorBoardLog
from executor.checkpoint import Checkpoints
from executor.control import Control
from executor.devices import CpuDevice, CudaDevice
from executor.grid import grid
from executor.interrupt import Suspended
from executor.job import TorchJob
from executor.master_weights import MasterWeights
from executor.pool import DevicePool
from executor.prepare import Prepared, prepare
from executor.train import JobResult, RunResult, train
from executor.weights import without_weights

__all__ = [
    "Checkpoints",
    "Control",
    "CpuDevice",
    "CsvLog",
    "CudaDevice",
    "DevicePool",
    "EarlyStopping",
    "EvaluationDone",
    "JobResult",
    "LiveTable",
    "MasterWeights",
    "MinibatchDone",
    "Prepared",
    "RunResult",
    "Suspended",
    "TensorBoardLog",
    "TorchJob",
    "grid",
    "prepare",
    "train",
    "without_weights",
]
