"""An emulated device: a share of this machine's memory, one core, and a link to host memory.

Without a link speed copies run at memory speed. With one they go in chunks, each reserved on the link's
clock, which devices behind one root complex share; waiting for it is emulation and labelled so.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

import torch

from executor.budget import BudgetTracker
from executor.copying import copy_bytes
from executor.devices.base import Device, DeviceMemory
from executor.errors import DeviceError
from hydrasim.cluster import Device as SimulatedDevice
from hydrasim.cluster import Link

_CHUNK_BYTES = 4 << 20
_HEAP_PIECE_BYTES = 1 << 20
_CLOCK = struct.Struct("d")
_DIRECTIONS = ("h2d", "d2h")  # full duplex: a clock each


@dataclass(frozen=True)
class CpuDevice(Device):
    """A device emulated on the CPU.

    memory_bytes: budget for state, boundaries, activations and gradients; what an operator uses within
    itself and the process's own memory do not count. link_bytes_per_s: speed of each direction of the
    link, None for memory speed. shared: devices that name the same bus share its time.

    Raises:
        DeviceError: a size or speed is not positive.
    """

    memory_bytes: int
    link_bytes_per_s: float | None = None
    shared: str = ""

    def __post_init__(self) -> None:
        if self.memory_bytes < 1:
            raise DeviceError(f"CpuDevice: memory_bytes is {self.memory_bytes}; it must be at least 1.")
        if self.link_bytes_per_s is not None and not self.link_bytes_per_s > 0:
            raise DeviceError(f"CpuDevice: link_bytes_per_s is {self.link_bytes_per_s}; it must be above 0.")

    def describe(self) -> SimulatedDevice:
        link = Link() if self.link_bytes_per_s is None else Link(self.link_bytes_per_s, shared=self.shared)
        kind = "cpu" if self.link_bytes_per_s is None else f"cpu, link {self.link_bytes_per_s:g} B/s"
        return SimulatedDevice(self.memory_bytes, h2d=link, d2h=link, kind=kind, on_host=True)

    def open(self, arena_bytes: int, working_bytes: int, link_fd: int | None) -> DeviceMemory:
        return _CpuMemory(self, arena_bytes, working_bytes, link_fd)


class _CpuMemory(DeviceMemory):
    def __init__(self, device: CpuDevice, arena_bytes: int, working_bytes: int, link_fd: int | None) -> None:
        self.arena = torch.zeros(max(1, arena_bytes), dtype=torch.uint8)  # touched now, not in the first unit
        self.arena.fill_(0)
        _touch_heap(working_bytes)
        self._speed = device.link_bytes_per_s
        self._clock = None if link_fd is None or self._speed is None else LinkClock(link_fd, self._speed)
        self.tracker = BudgetTracker(working_bytes)
        self.tracker.exempt(self.arena)

    @property
    def peak_bytes(self) -> int:
        return self.tracker.peak_bytes

    def copy(self, target: torch.Tensor, source: torch.Tensor, direction: str) -> None:
        if self._clock is None:
            copy_bytes(target, source)
            return
        for start in range(0, len(source), _CHUNK_BYTES):
            end = min(len(source), start + _CHUNK_BYTES)
            due_s = self._clock.reserve(end - start, direction)
            copy_bytes(target[start:end], source[start:end])
            time.sleep(max(0.0, due_s - time.monotonic()))

    def fill(self, start: int, nbytes: int, value: int) -> None:
        self.arena[start : start + nbytes].fill_(value)

    def computing(self) -> BudgetTracker:
        return self.tracker

    def register_host(self, store: torch.Tensor, used_bytes: int) -> None:
        """Do nothing: a copy between two places of host memory needs no preparation."""

    def exempt(self, tensors: Iterable[torch.Tensor]) -> None:
        self.tracker.exempt(list(tensors))

    def lower_budget(self, nbytes: int) -> None:
        assert self.tracker.limit_bytes is not None
        self.tracker.limit_bytes -= nbytes

    def close(self) -> None:
        """Do nothing: the arena goes with the last reference to it."""


def _touch_heap(nbytes: int) -> None:
    """Grow the heap to what units will take, and touch it; malloc keeps it, so that no unit faults pages in."""
    [torch.zeros(_HEAP_PIECE_BYTES, dtype=torch.uint8).fill_(0) for _ in range(nbytes // _HEAP_PIECE_BYTES)]


class LinkClock:
    """When each direction of a link is free again, kept in a shared file under the kernel's locks."""

    def __init__(self, fd: int, bytes_per_s: float) -> None:
        self._fd, self._bytes_per_s = fd, bytes_per_s
        self._threads = threading.Lock()  # file locks do not tell threads apart

    @staticmethod
    def create() -> int:
        """Return the descriptor of a new link's clock."""
        fd = os.memfd_create("hydrasim-link")
        os.pwrite(fd, _CLOCK.pack(0.0) * len(_DIRECTIONS), 0)
        return fd

    def reserve(self, nbytes: int, direction: str) -> float:
        """Book the link for a copy after those booked before; return when it ends, by time.monotonic()."""
        place = _DIRECTIONS.index(direction) * _CLOCK.size
        with self._threads:
            fcntl.lockf(self._fd, fcntl.LOCK_EX, _CLOCK.size, place)
            try:
                (free_s,) = _CLOCK.unpack(os.pread(self._fd, _CLOCK.size, place))
                due_s: float = max(time.monotonic(), free_s) + nbytes / self._bytes_per_s
                os.pwrite(self._fd, _CLOCK.pack(due_s), place)
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN, _CLOCK.size, place)
        return due_s
