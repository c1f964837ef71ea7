"""A CUDA GPU: persistent streams for the three lanes, each lane's thread waiting for its own.

No GPU has run this file yet; the README says so, and `make gpu` will.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from executor.devices.base import Device, DeviceMemory
from executor.errors import DeviceError
from hydrasim.cluster import Device as SimulatedDevice

_USABLE_FRACTION = 0.9  # the rest is for the CUDA context and libraries' workspaces


@dataclass(frozen=True)
class CudaDevice(Device):
    """A GPU by index. memory_bytes: how much of it to use; None for nearly all.

    Raises:
        DeviceError: when described or opened on a machine without it.
    """

    index: int = 0
    memory_bytes: int | None = None

    def describe(self) -> SimulatedDevice:
        if not torch.cuda.is_available():
            raise DeviceError("no CUDA device is available here; use --device cpu for emulated devices.")
        if self.index >= torch.cuda.device_count():
            raise DeviceError(f"there is no CUDA device {self.index}; this machine has {torch.cuda.device_count()}.")
        total = torch.cuda.get_device_properties(self.index).total_memory
        memory_bytes = int(total * _USABLE_FRACTION) if self.memory_bytes is None else self.memory_bytes
        return SimulatedDevice(memory_bytes, kind=f"cuda {torch.cuda.get_device_name(self.index)}")

    def open(self, arena_bytes: int, working_bytes: int, link_fd: int | None) -> DeviceMemory:
        return _CudaMemory(self.index, arena_bytes)


class _CudaMemory(DeviceMemory):
    def __init__(self, index: int, arena_bytes: int) -> None:
        torch.cuda.set_device(index)
        self.cuda_index = index
        self.arena = torch.zeros(max(1, arena_bytes), dtype=torch.uint8, device=f"cuda:{index}")
        self._compute = torch.cuda.Stream(index)
        self._copies = {direction: torch.cuda.Stream(index) for direction in ("h2d", "d2h")}
        torch.cuda.synchronize(index)

    def copy(self, target: torch.Tensor, source: torch.Tensor, direction: str) -> None:
        stream = self._copies[direction]
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)
        stream.synchronize()

    def computing(self) -> AbstractContextManager[object]:
        return torch.cuda.stream(self._compute)

    def finish_compute(self) -> None:
        self._compute.synchronize()
