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
        self._filling: dict[int, tuple[BlockKey, int]] = {}  # command -> the region that it fills, in their order

    def know(self, job: TrainingJob) -> None:
        """Begin with a job's state as it is."""
        self._newest |= {key: self._store.location[key] for key in state_keys(job)}

    def newest(self, key: BlockKey) -> int:
        """Return where a state will be once all commands are done that were issued."""
        return self._newest[key]

    def next(self, command: Command) -> int:
        """Return a region for the next version of a command's state, which counts once the command is done."""
        assert command.block is not None
        region = self._newest[command.block] = self._store.spare(command.block)
        self._filling[command.number] = command.block, region
        return region

    def commit(self, command: Command) -> None:
        """Have what a command made be the state, if it made one."""
        if command.number in self._filling:
            self._store.commit(*self._filling.pop(command.number))

    def give_back(self, command: Command) -> None:
        """Have the state that a command was to make, if any, be what those before it make."""
        if command.number in self._filling:
            key, region = self._filling.pop(command.number)
            self._store.give_back(key, region)
            others = [other for found, other in self._filling.values() if found == key]
            self._newest[key] = others[-1] if others else self._store.location[key]
