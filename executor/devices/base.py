"""What a device must offer: a description for the simulator, and memory with three lanes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from executor.budget import BudgetTracker
from hydrasim.cluster import Device as SimulatedDevice


@dataclass(frozen=True)
class Device(ABC):
    """A device as the user names it; plain data that travels to the worker process."""

    @abstractmethod
    def describe(self) -> SimulatedDevice:
        """Return the device in the simulator's words; its kind names the entry in a profile."""

    @abstractmethod
    def open(self, arena_bytes: int, working_bytes: int, link_fd: int | None) -> DeviceMemory:
        """Reserve the device's memory; called in the worker process."""


class DeviceMemory(ABC):
    """One device's memory, opened in its worker. arena: uint8, holds every block.

    cuda_index: the CUDA device, or None. tracker: what enforces the activation budget, if anything.
    """

    arena: torch.Tensor
    cuda_index: int | None = None
    tracker: BudgetTracker | None = None

    @abstractmethod
    def copy(self, target: torch.Tensor, source: torch.Tensor, direction: str) -> None:
        """Copy bytes between host store and arena; return when they have arrived."""

    @abstractmethod
    def computing(self) -> AbstractContextManager[object]:
        """Return the context that units run in."""

    @abstractmethod
    def finish_compute(self) -> None:
        """Wait until everything computed so far has happened."""
