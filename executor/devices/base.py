"""What a device must offer: a description for the simulator, and memory with three lanes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

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

    place: where the modules' constant tensors go. generator: what the device's operators draw from, None
    where that is the process's own generator.
    """

    arena: torch.Tensor
    place = torch.device("cpu")
    generator: torch.Generator | None = None

    @property
    @abstractmethod
    def peak_bytes(self) -> int:
        """The most bytes that were alive at once outside the arena."""

    @abstractmethod
    def copy(self, target: torch.Tensor, source: torch.Tensor, direction: str) -> None:
        """Copy bytes between host store and arena; return when they have arrived."""

    @abstractmethod
    def fill(self, start: int, nbytes: int, value: int) -> None:
        """Overwrite a range of the arena; return when that has happened."""

    @abstractmethod
    def computing(self) -> AbstractContextManager[object]:
        """Return the context that units run in; past its end, everything computed in it has happened."""

    @abstractmethod
    def register_host(self, store: torch.Tensor, used_bytes: int) -> None:
        """Learn which host memory copies are from and to, and that its first bytes are in use already."""

    @abstractmethod
    def exempt(self, tensors: Iterable[torch.Tensor]) -> None:
        """Leave constant tensors out of the budget for activations."""

    @abstractmethod
    def lower_budget(self, nbytes: int) -> None:
        """Have units do with so much less beside the arena, for what more constant tensors take."""

    @abstractmethod
    def close(self) -> None:
        """Give everything back; the lanes have ended, and nothing else refers to the arena."""
