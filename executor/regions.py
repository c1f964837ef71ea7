"""Where in the host store each state's newest version lies, or will once the command that makes it is done."""

from __future__ import annotations

from executor.host_store import HostStore
from hydrasim.command import Command
from hydrasim.dataflow import BlockKey, state_keys
from hydrasim.workload import TrainingJob


class Regions:
    """The regions of all states, those on their way included."""

    def __init__(self, store: HostStore) -> None:
        self._store = store
        self._newest: dict[BlockKey, int] = {}
        self._target: dict[int, int] = {}  # command -> the region that it fills

    def know(self, job: TrainingJob) -> None:
        """Begin with a job's state as it is."""
        self._newest |= {key: self._store.location[key] for key in state_keys(job)}

    def newest(self, key: BlockKey) -> int:
        """Return where a state will be once all commands are done that were issued."""
        return self._newest[key]

    def next(self, command: Command) -> int:
        """Return a region for the next version of a command's state, which counts once the command is done."""
        assert command.block is not None
        region = self._target[command.number] = self._newest[command.block] = self._store.spare(command.block)
        return region

    def commit(self, command: Command) -> None:
        """Have what a command made be the state, if it made one."""
        if command.number in self._target:
            assert command.block is not None
            self._store.commit(command.block, self._target.pop(command.number))

    def give_back(self, command: Command) -> None:
        """Have the state stay as it is that a command was to make, if any; none that came after counts either."""
        region = self._target.pop(command.number, None)
        if region is not None:
            assert command.block is not None
            self._store.give_back(command.block, region)
            self._newest[command.block] = self._store.location[command.block]
