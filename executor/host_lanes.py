"""The host's side of a run: fetches, saves, updates and restores, held until what they follow is done."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from selectors import EVENT_READ, BaseSelector

from executor.accounts import Accounts
from executor.messages import Done, Fetch, Order, Restore, Save
from executor.regions import Regions
from executor.stage import Stage
from executor.stories import end_of
from hydrasim.command import Command, Kind
from hydrasim.workload import TrainingJob

_OF_LOADERS = (Kind.FETCH, Kind.SAVE, Kind.RESTORE)


class HostLanes:
    """Loaders, one a job, and the process that updates. running: commands that are not done, by number.

    sources: hears of the loaders' connections, by job.
    """

    def __init__(
        self,
        stage: Stage,
        sources: BaseSelector,
        regions: Regions,
        accounts: Accounts,
        running: Mapping[int, Command],
    ) -> None:
        self._stage, self._sources, self._regions = stage, sources, regions
        self._accounts, self._running = accounts, running
        self._loaders: dict[str, Connection] = {}
        self._held: list[tuple[Command, Order | None]] = []  # updates with their orders
        self._updates: dict[int, Order] = {}  # that were handed on, by number

    def know(self, job: TrainingJob, loader: Connection) -> None:
        """Listen to a job's loader, and to the process that updates if that is new."""
        self._loaders[job.name] = loader
        self._sources.register(loader, EVENT_READ, job.name)
        updater = self._stage.pool.updater
        if updater is not None and updater.connection not in self._sources.get_map():
            self._sources.register(updater.connection, EVENT_READ, None)

    def hold(self, command: Command) -> None:
        """Keep a command until its predecessors are done."""
        order = None
        if command.kind is Kind.UPDATE:
            assert command.block is not None
            source = self._regions.newest(command.block)
            order = Order(replace(command, after=(), eligible=()), self._regions.next(command), source)
        self._held.append((command, order))

    def withdraw(self, numbers: Collection[int]) -> None:
        """Have commands that are held never begin."""
        self._held = [entry for entry in self._held if entry[0].number not in numbers]

    def drop(self, job: str) -> None:
        """Hang up on the loader of a job that was set aside."""
        self._sources.unregister(self._loaders.pop(job))
        self._stage.pool.close_loader(job)

    def is_held(self, number: int) -> bool:
        """Tell whether a command has not been handed on."""
        return any(command.number == number for command, _ in self._held)

    def release(self) -> list[Done]:
        """Hand on what was held, as far as it may begin; return what is done thereby.

        Raises:
            ExecutionError: a process is gone, and runs do not recover.
        """
        done: list[Done] = []
        held, self._held = self._held, []
        for command, order in held:
            if any(number in self._running for number in command.after):
                self._held.append((command, order))
            elif order is None and command.unit.job not in self._loaders:
                continue  # of a job that was set aside just now
            elif command.kind is Kind.RESTORE and not command.unit.minibatch:
                done.append(self._begin_again(command))
            else:
                self._hand_on(command, order)
        return done

    def asked_of(self, job: str) -> list[Command]:
        """Return what a job's loader was asked for and has not done, in order."""
        held = {command.number for command, _ in self._held}
        asked = (c for c in self._running.values() if c.kind in _OF_LOADERS and c.unit.job == job)
        return [command for command in asked if command.number not in held]

    def update_again(self, updater: Connection) -> None:
        """Have another process take the steps that one had not when it ended; each makes a new state of an old one."""
        self._sources.register(updater, EVENT_READ, None)
        with suppress(OSError):  # it has ended again, which will be read
            for order in self._still_updating().values():
                updater.send(order)

    def replace_loader(self, job: str) -> None:
        """Have another loader go on where a job's ended."""
        asked = self.asked_of(job)
        self._listen_to(job, self._stage.reload)
        with suppress(OSError):  # it has ended again, which will be read
            for command in asked:
                self._loaders[job].send(self._request(command))

    def _hand_on(self, command: Command, order: Order | None) -> None:
        job, pool = command.unit.job, self._stage.pool
        try:
            if order is None:
                if command.kind is Kind.RESTORE:
                    self._listen_to(job, self._stage.reload)
                self._loaders[job].send(self._request(command))
            else:
                assert pool.updater is not None
                self._updates = {**self._still_updating(), command.number: order}
                pool.updater.connection.send(order)
        except (BrokenPipeError, OSError):
            if not self._stage.recovers:  # else its end will be read, and another is asked
                asked = None if order is not None else next(iter(self.asked_of(job)), None)
                raise end_of(job if order is None else None, pool, asked) from None

    def _still_updating(self) -> dict[int, Order]:
        return {number: order for number, order in self._updates.items() if number in self._running}

    def _request(self, command: Command) -> Fetch | Save | Restore:
        job, minibatch = command.unit.job, command.unit.minibatch
        if command.kind is Kind.FETCH:
            return Fetch(command.number, minibatch)
        regions = self._stage.regions_of(job)
        if command.kind is Kind.RESTORE:
            return Restore(command.number, minibatch, regions)
        losses, metrics = self._accounts.before(job, minibatch + 1)
        return Save(command.number, minibatch, regions, losses, metrics, self._stage.is_stopped(job))

    def _begin_again(self, command: Command) -> Done:
        """Have a job be as before its first step, with a loader that begins."""
        started_s = time.monotonic()
        self._listen_to(command.unit.job, self._stage.restart)
        return Done(command.number, started_s, time.monotonic())

    def _listen_to(self, job: str, renew: Callable[[str], Connection]) -> None:
        """Have a job's loader be another."""
        self._sources.unregister(self._loaders[job])
        self._loaders[job] = renew(job)
        self._sources.register(self._loaders[job], EVENT_READ, job)
