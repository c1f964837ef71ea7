"""Devices that are lost in a run: their workers are started again, a few times, and join it when they are ready.

So is the process that updates in host memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from multiprocessing import Pipe

from executor.errors import ExecutionError
from executor.pool import UPDATER
from executor.process import Child
from executor.replacement import Replacement
from executor.stage import Stage
from hydrasim.workload import ShardUnit

_MOST_LOSSES = 8  # of a device, after which it stays away
_MOST_DEATHS = 3  # of workers in one unit, which is taken to cause them then


class LostDevices:
    """What became of lost devices. reader: has something to read when one may be back. stories: how each was lost."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.reader, self._writer = Pipe(duplex=False)
        self.stories: list[str] = []
        self.away: set[int] = set()
        self._starting: list[Replacement] = []
        self._counts: Counter[object] = Counter()

    def lose(self, device: int, story: ExecutionError, unit: ShardUnit | None) -> bool:
        """Have a device's worker be started again, unless that was done often enough. unit: that it was running.

        Return whether that unit kills whoever runs it.

        Raises:
            ExecutionError: no device is left.
        """
        is_deadly = self.note(story, unit)
        self.away.add(device)
        self._counts[device] += 1
        if self._counts[device] <= _MOST_LOSSES:
            self._starting.append(self._stage.replace(device, self._wake))
        else:
            self._stage.pool.workers[device].kill()
        self._check()
        return is_deadly

    def lose_updater(self, story: ExecutionError) -> None:
        """Have the process that updates in host memory be started again.

        Raises:
            ExecutionError: that was done often enough.
        """
        self.note(story, None)
        self._counts[None] += 1
        if self._counts[None] > _MOST_LOSSES:
            raise story from None
        self._starting.append(self._stage.replace_updater(self._wake))

    def note(self, story: ExecutionError, cause: object) -> bool:
        """Keep how a process was lost; return whether what it was doing, if anything, ends whoever does it."""
        self.stories.append(str(story))
        if cause is None:
            return False
        self._counts[cause] += 1
        return self._counts[cause] == _MOST_DEATHS

    def returned(self) -> Iterator[tuple[int | None, Child]]:
        """Yield devices that are back, with their new workers; None for the process that updates.

        Raises:
            ExecutionError: that could not be set up again, or no device is left.
        """
        self.reader.recv_bytes()
        for replacement in [one for one in self._starting if one.child is not None or one.error]:
            self._starting.remove(replacement)
            device = replacement.device
            what = UPDATER if device is None else f"device {device}"
            if replacement.error:
                self.stories.append(f"{what} could not be set up again: {replacement.error}.")
                if device is None:
                    raise ExecutionError(self.stories[-1])
                continue
            if device is not None:
                self.away.remove(device)
            yield device, self._stage.install(replacement)
        self._check()

    def _check(self) -> None:
        if len(self.away) == len(self._stage.pool.devices) and not self._starting:
            raise ExecutionError("no device is left: " + " ".join(self.stories))

    def _wake(self) -> None:
        with suppress(OSError):  # the run may be over
            self._writer.send_bytes(b"!")

    def close(self) -> None:
        """Listen no more; what is still being started ends with the run."""
        self._starting.clear()
        self._writer.close()
        self.reader.close()
