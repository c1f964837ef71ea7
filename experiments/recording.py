"""An emulated device that writes down how much each of its units had alive."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from executor.budget import BudgetTracker
from executor.devices import CpuDevice, DeviceMemory


@dataclass(frozen=True)
class RecordingDevice(CpuDevice):
    """A CpuDevice with a diary: path gets a line a unit, its peak bytes outside the arena, in order."""

    path: str = ""

    def open(self, *args: Any, **options: Any) -> DeviceMemory:
        """Reserve the memory as a CpuDevice does, and start an empty diary."""
        memory = super().open(*args, **options)
        tracker = memory.tracker
        assert tracker is not None
        Path(self.path).write_text("")
        memory.computing = lambda: _noting(tracker, Path(self.path))  # type: ignore[method-assign]
        return memory

    def unit_peaks(self) -> list[int]:
        """Return what the units of the last run had alive at most."""
        return [int(line) for line in Path(self.path).read_text().split()]


@contextmanager
def _noting(tracker: BudgetTracker, path: Path) -> Iterator[None]:
    before = tracker.peak_bytes
    tracker.reset_peak()
    try:
        with tracker:
            yield
    finally:
        with path.open("a") as diary:
            diary.write(f"{tracker.peak_bytes}\n")
        tracker.peak_bytes = max(before, tracker.peak_bytes)
