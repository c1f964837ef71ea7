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
from executor.interrupt import Interrupt
from executor.lost_devices import LostDevices
from executor.messages import Broken, Done, Order, Skip
from executor.regions import Regions
from executor.stage import Admitted, Stage
from executor.stories import Process, doing_of, end_of, failure_of
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
    JobFailed,
    JobSuspended,
    Kind,
)
from hydrasim.workload import TrainingJob, Workload

# Of events: a process, who asks for what is to happen to jobs, Ctrl-C, or what brings devices back.
Source = Process | Control | Interrupt | LostDevices


class TorchBackend:
    """Carries commands out on real devices. accounts: what training comes to; lost_devices: and what became of them.

    callbacks: told of mini-batches and evaluations. control: tells what is to happen to jobs. interrupt: that all are
    to be suspended. strict: a job that fails ends the run. failures: of those that were set aside instead.
    """

    def __init__(
        self,
        workload: Workload,
        stage: Stage,
        loaders: dict[str, Connection],
        callbacks: Sequence[Callback] = (),
        control: Control | None = None,
        interrupt: Interrupt | None = None,
        *,
        strict: bool = False,
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
        self._broken: set[int] = set()  # commands that raised
        self._strict, self.failures = strict, dict[str, ExecutionError]()
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

    def withdraw(self, device: int | None, numbers: Sequence[int]) -> None:
        """See `hydrasim.loop.Backend`."""
        gone = {number for number, command in self._running.items() if command.device == device}
        skips: dict[int, list[int]] = {}
        ended = {number for number in numbers if number not in self._running}  # of which nobody has heard yet
        self._events = deque(e for e in self._events if not (isinstance(e, Finished) and e.command.number in ended))
        for number in (number for number in numbers if number not in ended):
            command = self._running[number]
            updates = command.kind is Kind.UPDATE and not self._host.is_held(number)
            if number in self._broken or (command.device == HOST and not updates):
                gone.add(number)
                continue
            self._pointless.add(number)
            if command.device != HOST:
                skips.setdefault(command.device, []).append(number)
            if device is not None:  # else it may have begun, and what it writes is nobody's until it is over
                self._regions.give_back(command)
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
        if isinstance(source, Control | Interrupt):
            connection.recv_bytes()
            suspended = (JobSuspended(job, self._now_s()) for job in self._stage.parts)
            yield from suspended if isinstance(source, Interrupt) else self._asked()
            return
        if isinstance(source, LostDevices):
            yield from self._returned(source)
            return
        try:
            messages = connection.recv()
        except (EOFError, OSError):
            yield from self._end_of(source)
            return
        for message in messages:
            event = self._heard(source, message)
            yield from self._asked()  # by callbacks, and before the event that may end the run
            if event is not None:
                yield event
            yield from self.accounts.stops
            self.accounts.stops.clear()
            while self.accounts.failures:
                yield self._set_aside(*self.accounts.failures.pop(0))

    def _returned(self, lost: LostDevices) -> Iterator[DeviceBack]:
        for device, child in lost.returned():
            if device is None:
                self._host.update_again(child.connection)
            else:
                self._sources.register(child.connection, EVENT_READ, device)
                yield DeviceBack(device, self._now_s())

    def _end_of(self, source: Process) -> Iterator[DeviceLost | JobFailed]:
        """Have the run go on without a device whose process ended, or with another loader.

        A job of which a unit or a fetch ends its process again and again is set aside.

        Raises:
            ExecutionError: it was the last device, or runs do not recover.
        """
        doing = self._doing(source)
        story = end_of(source, self._pool, doing)
        if self.lost_devices is None:
            raise story from None
        if source is None:
            self._sources.unregister(self._pool.updater.connection)  # type: ignore[union-attr]
            self.lost_devices.lose_updater(story)
            return
        if isinstance(source, str):
            if self.lost_devices.note(story, doing and doing.unit):
                yield self._set_aside(source, story)
                return
            self._host.replace_loader(source)
            return
        self._sources.unregister(self._pool.workers[source].connection)
        unit = doing.unit if doing is not None and doing.kind is Kind.COMPUTE else None
        is_deadly = self.lost_devices.lose(source, story, unit)
        yield DeviceLost(source, self._now_s())
        if is_deadly and unit is not None:
            yield self._set_aside(unit.job, story)

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
        self.accounts.open(job, self._stage.begun.get(job.name), scales=self._stage.scales(job.name))
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
            self._events.append(self._finished(done))

    def _heard(self, process: Process, message: Done | Broken) -> Event | None:
        """Take a report into account; of what is pointless nobody is told."""
        if message.number in self._pointless:
            del self._issued_s[message.number]
            self._regions.give_back(self._forget(message.number))
            return None
        return self._raised(process, message) if isinstance(message, Broken) else self._finished(message)

    def _finished(self, message: Done) -> Finished:
        command = self._forget(message.number)
        self._regions.commit(command)
        self._release()
        start_s, end_s = (round(moment_s - self._started_s, 7) for moment_s in (message.start_s, message.end_s))
        if isinstance(message.result, Score):
            self.accounts.evaluated(command.unit, message.result, end_s)
        elif command.kind is Kind.COMPUTE and message.result is not None:
            self.accounts.trained(command.unit, message.result, end_s)
        return Finished(command, start_s, end_s, self._issued_s.pop(command.number))

    def _raised(self, process: Process, message: Broken) -> Failed | JobFailed:
        """Have the job be set aside whose command raised.

        Raises:
            ExecutionError: the process failed by itself.
        """
        command = self._running.get(message.number)
        error = failure_of(process, message, command)
        if command is None and isinstance(process, str):
            return self._set_aside(process, error)
        if command is None:
            raise error
        self._broken.add(message.number)
        return Failed(command, error) if self._strict else self._set_aside(command.owner, error)

    def _set_aside(self, job: str, error: ExecutionError) -> JobFailed:
        """Have nothing more come of a job, or raise why it failed."""
        if self._strict:
            raise error
        if job not in self.failures:
            self.failures[job] = error
            self._host.drop(job)
        return JobFailed(job, self._now_s(), error)

    def _doing(self, process: Process) -> Command | None:
        """Return what a device's worker has begun and not reported, its unit first, or what a loader was asked for."""
        if isinstance(process, str):
            return next(iter(self._host.asked_of(process)), None)
        return None if process is None else doing_of(process, self._store, self._running)

    def _send(self, device: int, message: object) -> None:
        if self.lost_devices is not None and device in self.lost_devices.away:
            return
        try:
            self._pool.workers[device].connection.send(message)
        except (BrokenPipeError, OSError):
            if self.lost_devices is None:  # else its end will be read, and what it had is redone
                raise end_of(device, self._pool, self._doing(device)) from None
