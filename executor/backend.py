"""The live backend: hands the orchestrator's commands to worker processes and returns what happened."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from selectors import EVENT_READ, DefaultSelector

from executor.accounts import Accounts
from executor.callbacks import Callback
from executor.control import Control
from executor.errors import ExecutionError
from executor.evaluation import Score
from executor.host_lanes import HostLanes
from executor.host_store import DEVICE_LANES
from executor.interrupt import Interrupt
from executor.lost_devices import LostDevices
from executor.messages import Broken, Done, Order, Skip
from executor.regions import Regions
from executor.stage import Admitted, Stage
from executor.stories import Process, end_of, failure_of
from hydrasim.command import (
    HOST,
    Command,
    DeviceBack,
    DeviceLost,
    Event,
    Failed,
    Finished,
    Happening,
    JobAdded,
    JobSuspended,
    Kind,
)
from hydrasim.workload import TrainingJob, Workload

# Of events: a process, who asks for what is to happen to jobs, Ctrl-C, or what brings devices back.
Source = Process | Control | Interrupt | LostDevices


class TorchBackend:
    """Carries commands out on real devices. accounts: what training comes to; lost_devices: and what became of them.

    callbacks: told of mini-batches and evaluations. control: tells what is to happen to jobs. interrupt: that all are
    to be suspended.
    """

    def __init__(
        self,
        workload: Workload,
        stage: Stage,
        loaders: dict[str, Connection],
        callbacks: Sequence[Callback] = (),
        control: Control | None = None,
        interrupt: Interrupt | None = None,
    ) -> None:
        self.label = stage.label
        self.accounts, self.interrupt, self._control = Accounts(callbacks), interrupt, control
        self._stage, self._pool, self._store = stage, stage.pool, stage.store
        self._sources = DefaultSelector()  # kept, since setting one up for every event would cost more than the event
        self._regions = Regions(stage.store)
        self._running: dict[int, Command] = {}
        self._issued_s: dict[int, float] = {}
        self._interested: dict[int, list[int]] = {}  # command -> devices that wait for it
        self._host = HostLanes(stage, self._sources, self._regions, self.accounts, self._running)
        self._events: deque[Event] = deque()
        for index, worker in enumerate(self._pool.workers):
            self._sources.register(worker.connection, EVENT_READ, index)
        for job in workload.jobs:
            self._know(job, loaders[job.name])
        for source in (control, interrupt):
            if source is not None and source.reader is not None:
                self._sources.register(source.reader, EVENT_READ, source)
        self._pointless: set[int] = set()  # commands that may have begun, and whose end nobody is told of
        self.lost_devices = LostDevices(stage) if stage.recovers else None
        if self.lost_devices is not None:
            self._sources.register(self.lost_devices.reader, EVENT_READ, self.lost_devices)
        self._started_s, self._started_core_s = time.monotonic(), time.thread_time()
        self.core_s = 0.0  # of the thread that drives the run, the orchestrator's deciding included; known at the end

    def close(self) -> None:
        """Stop listening; the connections belong to the pool."""
        self._sources.close()
        if self.lost_devices is not None:
            self.lost_devices.close()
        self.core_s = time.thread_time() - self._started_core_s

    @property
    def faults(self) -> tuple[str, ...]:
        """What became of processes that ended, of which the run has recovered."""
        return () if self.lost_devices is None else tuple(self.lost_devices.stories)

    def submit(self, commands: list[Command]) -> None:
        """Send commands to their workers and loaders."""
        orders: dict[int, list[Order]] = {}
        now_s = round(self._now_s(), 7)  # finer digits are noise, and files of them large
        for command in commands:
            self._running[command.number] = command
            self._issued_s[command.number] = now_s
            if command.device == HOST:
                self._host.hold(command)
            else:
                orders.setdefault(command.device, []).append(self._order(command))
        for device, batch in orders.items():
            self._send(device, (batch, []))
        self._release()

    def next_event(self) -> Event:
        """Wait for a worker or loader to report."""
        while not self._events:
            for key, _ in self._sources.select():
                assert isinstance(key.fileobj, Connection)
                self._events.extend(self._read(key.fileobj, key.data))
        return self._events.popleft()

    def withdraw(self, device: int, numbers: Sequence[int]) -> None:
        """See `hydrasim.loop.Backend`."""
        gone = {number for number, command in self._running.items() if command.device == device}
        skips: dict[int, list[int]] = {}
        for number in numbers:
            where = self._running[number].device
            if where == HOST:
                gone.add(number)
            else:
                skips.setdefault(where, []).append(number)
                self._pointless.add(number)
                self._regions.give_back(self._running[number])
        self._host.withdraw(gone)
        for where, skipped in skips.items():
            self._send(where, Skip(tuple(skipped)))
        for number in sorted(gone, reverse=True):
            del self._issued_s[number]
            self._regions.give_back(self._forget(number))

    def _forget(self, number: int) -> Command:
        """Have nobody wait for a command any more."""
        command = self._running.pop(number)
        self._pointless.discard(number)
        for device in dict.fromkeys(self._interested.pop(number, ())):
            self._send(device, ([], [number]))
        return command

    def _read(self, connection: Connection, source: Source) -> Iterator[Event]:
        """Yield what a source has to tell; nothing if another has taken its place meanwhile."""
        if connection.closed:
            return
        if isinstance(source, Control):
            connection.recv_bytes()
            yield from self._asked()
            return
        if isinstance(source, Interrupt):
            connection.recv_bytes()
            yield from (JobSuspended(job, self._now_s()) for job in self._stage.parts)
            return
        if isinstance(source, LostDevices):
            for device, child in source.returned():
                self._sources.register(child.connection, EVENT_READ, device)
                yield DeviceBack(device, self._now_s())
            return
        try:
            messages = connection.recv()
        except (EOFError, OSError):
            yield from self._end_of(source)
            return
        for message in messages:
            event = self._broken(source, message) if isinstance(message, Broken) else self._finished(message)
            yield from self._asked()  # by callbacks, and before the event that may end the run
            if event is not None:
                yield event
            yield from self.accounts.stops
            self.accounts.stops.clear()

    def _end_of(self, source: Process) -> Iterator[DeviceLost]:
        """Have the run go on without a device whose process ended, or with another loader.

        Raises:
            ExecutionError: it was the updater, or the last device, or runs do not recover.
        """
        doing = self._doing(source)
        story = end_of(source, self._pool, doing)
        if self.lost_devices is None or source is None:
            raise story from None
        if isinstance(source, str):
            self.lost_devices.note(story, doing and doing.unit)
            self._host.replace_loader(source)
            return
        self._sources.unregister(self._pool.workers[source].connection)
        self.lost_devices.lose(source, story, doing.unit if doing is not None and doing.kind is Kind.COMPUTE else None)
        yield DeviceLost(source, self._now_s())

    def _now_s(self) -> float:
        return time.monotonic() - self._started_s

    def _asked(self) -> Iterator[Happening]:
        """Yield what was asked for by control; set up jobs that are added."""
        for asked in () if self._control is None else self._control.taken():
            if isinstance(asked, Admitted):
                self._know(asked.training_job, self._stage.add(asked))
                yield JobAdded(asked.training_job.name, self._now_s(), asked.training_job)
            else:
                what, job = asked
                yield what(job, self._now_s())

    def _know(self, job: TrainingJob, loader: Connection) -> None:
        """Listen to a job's processes, and keep account of it."""
        self.accounts.open(job, self._stage.begun.get(job.name))
        self._host.know(job, loader)
        self._regions.know(job)

    def _order(self, command: Command) -> Order:
        """Say where state lies, and split the predecessors into this worker's and others'."""
        region = 0
        key = command.block
        if key is not None and key.kind == "w":
            whole = command.kind is Kind.STORE and command.nbytes == self._store.state_bytes(key)
            region = self._regions.next(command) if whole else self._regions.newest(key)
        after, foreign = [], []
        for number in command.after:
            running = self._running.get(number)
            if running is None:
                continue
            if running.device == command.device:
                after.append(number)
            else:
                foreign.append(number)
                self._interested.setdefault(number, []).append(command.device)
        return Order(replace(command, after=(), eligible=()), region, 0, tuple(after), tuple(foreign))

    def _release(self) -> None:
        for done in self._host.release():
            if (event := self._finished(done)) is not None:
                self._events.append(event)

    def _finished(self, message: Done) -> Finished | None:
        if message.number in self._pointless:
            del self._issued_s[message.number]
            self._forget(message.number)
            return None
        command = self._forget(message.number)
        self._regions.commit(command)
        self._release()
        start_s, end_s = (round(moment_s - self._started_s, 7) for moment_s in (message.start_s, message.end_s))
        if isinstance(message.result, Score):
            self.accounts.evaluated(command.unit, message.result, end_s)
        elif command.kind is Kind.COMPUTE and message.result is not None:
            self.accounts.trained(command.unit, message.result, end_s)
        return Finished(command, start_s, end_s, self._issued_s.pop(command.number))

    def _broken(self, process: Process, message: Broken) -> Failed:
        command = self._running.get(message.number)
        error = failure_of(process, message, command)
        if command is None:
            raise error
        return Failed(command, error)

    def _lost(self, process: Process) -> ExecutionError:
        """Say which process ended, what it was doing, and how it ended."""
        return end_of(process, self._pool, self._doing(process))

    def _doing(self, process: Process) -> Command | None:
        """Return what a device's worker has begun and not reported, its unit first, or what a loader was asked for."""
        if isinstance(process, str):
            return next(iter(self._host.asked_of(process)), None)
        if process is None:
            return None
        began = [self._running.get(self._store.read_doing(process, lane)) for lane in DEVICE_LANES]
        return next((command for command in began if command is not None and command.device == process), None)

    def _send(self, device: int, message: object) -> None:
        if self.lost_devices is not None and device in self.lost_devices.away:
            return
        try:
            self._pool.workers[device].connection.send(message)
        except (BrokenPipeError, OSError):
            if self.lost_devices is None:  # else its end will be read, and what it had is redone
                raise self._lost(device) from None
