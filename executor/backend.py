"""The live backend: hands the orchestrator's commands to worker processes and returns what happened."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from selectors import EVENT_READ, DefaultSelector
from typing import Any

from executor.callbacks import Callback, EvaluationDone, MinibatchDone
from executor.control import Control
from executor.errors import ExecutionError
from executor.evaluation import Score, mean_of
from executor.host_store import DEVICE_LANES
from executor.messages import Broken, Done, Order
from executor.pool import UPDATER
from executor.stage import Admitted, Stage
from hydrasim.command import HOST, Command, Event, Failed, Finished, Happening, JobAdded, JobStopped, Kind
from hydrasim.dataflow import BlockKey, state_keys
from hydrasim.errors import told
from hydrasim.schedule import Schedule
from hydrasim.workload import ShardUnit, TrainingJob, Workload

# Of events: a device's worker, a job's loader, None for the updater, or who asks for what is to happen to jobs.
Source = int | str | None | Control


class TorchBackend:
    """Carries commands out on real devices. losses: by job, one a mini-batch, in order; metrics: one an evaluation.

    callbacks: told of each. control: tells what is to happen to jobs.
    """

    def __init__(
        self,
        workload: Workload,
        stage: Stage,
        loaders: dict[str, Connection],
        callbacks: Sequence[Callback] = (),
        control: Control | None = None,
    ) -> None:
        self.label = stage.label
        self._schedules: dict[str, Schedule] = {}
        self.losses: dict[str, list[float]] = {}
        self.metrics: dict[str, list[float]] = {}
        self._scores: dict[str, list[Score]] = {}  # of the evaluation under way
        self._callbacks, self._control = callbacks, control
        self._stage, self._pool, self._store = stage, stage.pool, stage.store
        self._loaders: dict[str, Connection] = {}
        self._sources = DefaultSelector()  # kept, since setting one up for every event would cost more than the event
        self._newest: dict[BlockKey, int] = {}  # where state will be once all stores are done
        for index, worker in enumerate(self._pool.workers):
            self._sources.register(worker.connection, EVENT_READ, index)
        for job in workload.jobs:
            self._know(job, loaders[job.name])
        if control is not None and control.reader is not None:
            self._sources.register(control.reader, EVENT_READ, control)
        self._running: dict[int, Command] = {}
        self._issued_s: dict[int, float] = {}
        self._interested: dict[int, list[int]] = {}  # command -> devices that wait for it
        self._held: list[tuple[Command, Order | None]] = []  # of the host: fetches, and updates with their orders
        self._target: dict[int, int] = {}
        self._events: deque[Event] = deque()
        self._stops: list[JobStopped] = []
        self._started_s, self._started_core_s = time.monotonic(), time.thread_time()
        self.core_s = 0.0  # of the thread that drives the run, the orchestrator's deciding included; known at the end

    def close(self) -> None:
        """Stop listening; the connections belong to the pool."""
        self._sources.close()
        self.core_s = time.thread_time() - self._started_core_s

    def submit(self, commands: list[Command]) -> None:
        """Send commands to their workers and loaders."""
        orders: dict[int, list[Order]] = {}
        now_s = round(time.monotonic() - self._started_s, 7)  # finer digits are noise, and files of them large
        for command in commands:
            self._running[command.number] = command
            self._issued_s[command.number] = now_s
            if command.device == HOST:
                self._hold(command)
            else:
                orders.setdefault(command.device, []).append(self._order(command))
        for device, batch in orders.items():
            self._send(device, (batch, []))
        self._release()

    def next_event(self) -> Event:
        """Wait for a worker or loader to report."""
        while not self._events:
            for key, _ in self._sources.select():
                connection, source = key.fileobj, key.data
                assert isinstance(connection, Connection)
                if isinstance(source, Control):
                    connection.recv_bytes()
                    self._events.extend(self._asked())
                    continue
                try:
                    messages = connection.recv()
                except (EOFError, OSError):
                    raise self._lost(source) from None
                for message in messages:
                    event = self._broken(source, message) if isinstance(message, Broken) else self._finished(message)
                    self._events.extend(self._asked())  # by callbacks, and before the event that may end the run
                    self._events.append(event)
                    self._events.extend(self._stops)
                    self._stops.clear()
        return self._events.popleft()

    def _asked(self) -> Iterator[Happening]:
        """Yield what was asked for by control; set up jobs that are added."""
        for asked in () if self._control is None else self._control.taken():
            at_s = time.monotonic() - self._started_s
            if isinstance(asked, Admitted):
                self._know(asked.training_job, self._stage.add(asked))
                yield JobAdded(asked.training_job.name, at_s, asked.training_job)
            else:
                what, job = asked
                yield what(job, at_s)

    def _know(self, job: TrainingJob, loader: Connection) -> None:
        """Listen to a job's processes, and keep account of it."""
        self._schedules[job.name] = job.schedule
        self.losses[job.name], self.metrics[job.name], self._scores[job.name] = [], [], []
        self._loaders[job.name] = loader
        self._sources.register(loader, EVENT_READ, job.name)
        self._newest |= {key: self._store.location[key] for key in state_keys(job)}
        updater = self._pool.updater
        if updater is not None and updater.connection not in self._sources.get_map():
            self._sources.register(updater.connection, EVENT_READ, None)

    def _order(self, command: Command) -> Order:
        """Say where state lies, and split the predecessors into this worker's and others'."""
        region = 0
        key = command.block
        if key is not None and key.kind == "w":
            whole = command.kind is Kind.STORE and command.nbytes == self._store.state_bytes(key)
            region = self._next_region(command) if whole else self._newest[key]
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

    def _next_region(self, command: Command) -> int:
        """Return a region for the next version of a state, which counts once the command is done."""
        assert command.block is not None
        region = self._target[command.number] = self._newest[command.block] = self._store.spare(command.block)
        return region

    def _hold(self, command: Command) -> None:
        """Keep a command of the host until its predecessors are done."""
        order = None
        if command.kind is Kind.UPDATE:
            assert command.block is not None
            source = self._newest[command.block]
            order = Order(replace(command, after=(), eligible=()), self._next_region(command), source)
        self._held.append((command, order))

    def _release(self) -> None:
        """Hand on what was held, as far as it may begin."""
        held, self._held = self._held, []
        for command, order in held:
            if any(number in self._running for number in command.after):
                self._held.append((command, order))
                continue
            try:
                if order is None:
                    self._loaders[command.unit.job].send((command.number, command.unit.minibatch))
                else:
                    assert self._pool.updater is not None
                    self._pool.updater.connection.send(order)
            except (BrokenPipeError, OSError):
                raise self._lost(command.unit.job if order is None else None) from None

    def _finished(self, message: Done) -> Finished:
        command = self._running.pop(message.number)
        for device in dict.fromkeys(self._interested.pop(message.number, ())):
            self._send(device, ([], [message.number]))
        if command.number in self._target:
            assert command.block is not None
            self._store.commit(command.block, self._target.pop(command.number))
        if self._held:
            self._release()
        start_s, end_s = (round(moment_s - self._started_s, 7) for moment_s in (message.start_s, message.end_s))
        if isinstance(message.result, Score):
            self._evaluated(command.unit, message.result, end_s)
        elif command.kind is Kind.COMPUTE and message.result is not None:
            self._trained(command.unit, message.result, end_s)
        return Finished(command, start_s, end_s, self._issued_s.pop(command.number))

    def has_finished(self, job: TrainingJob) -> bool:
        """Tell whether a job was trained and evaluated to its end, and so was not stopped."""
        num_evaluations = job.schedule.num_epochs if job.evaluation_minibatches else 0
        done = len(self.losses[job.name]), len(self.metrics[job.name])
        return done == (job.schedule.num_trained, num_evaluations)

    def _trained(self, unit: ShardUnit, loss: float, at_s: float) -> None:
        self.losses[unit.job].append(loss)
        number, schedule = len(self.losses[unit.job]) - 1, self._schedules[unit.job]
        self._tell(self._callbacks, MinibatchDone(unit.job, number, schedule.num_trained, loss, at_s))

    def _evaluated(self, unit: ShardUnit, score: Score, at_s: float) -> None:
        """Collect a mini-batch's score; the last one of an epoch makes its metric."""
        scores, schedule = self._scores[unit.job], self._schedules[unit.job]
        scores.append(score)
        if not schedule.ends_evaluation(unit.minibatch):
            return
        metric = mean_of(scores)
        scores.clear()
        self.metrics[unit.job].append(metric)
        told_of = [callback.on_evaluation for callback in self._callbacks if hasattr(callback, "on_evaluation")]
        epoch = schedule.epoch(unit.minibatch)
        self._tell(told_of, EvaluationDone(unit.job, epoch, schedule.num_epochs, metric, at_s))

    def _tell(self, callbacks: Sequence[Callable[[Any], Any]], done: MinibatchDone | EvaluationDone) -> None:
        """Call callbacks in turn; one that returns True stops the job."""
        for callback in callbacks:
            try:
                if callback(done) is True:
                    self._stops.append(JobStopped(done.job, done.at_s))
            except Exception as reason:
                raise ExecutionError(
                    f"a callback failed after {done.what} of job {done.job!r}: {told(reason)}"
                ) from reason

    def _broken(self, source: Source, message: Broken) -> Failed:
        command = self._running.get(message.number)
        if command is None:  # torch raises in a loader, whatever it does, when one of its own workers is killed
            raise ExecutionError(f"{_named(source)} failed while idle: {message.text}")
        where = {int: f"on device {source}", str: "in its loader"}.get(type(source), "in host memory")
        error = ExecutionError(
            f"job {command.unit.job!r} failed in the {message.kind} of {command.unit} {where}: {message.text}"
        )
        error.worker_traceback = message.trace
        error.out_of_memory = message.text.startswith(("BudgetExceeded:", "OutOfMemoryError:"))
        return Failed(command, error)

    def _lost(self, source: Source) -> ExecutionError:
        """Say which process ended, what it was doing, and how it ended."""
        if isinstance(source, str):
            return ExecutionError(f"job {source!r}: its loader process ended while a mini-batch was awaited.")
        if source is None:
            assert self._pool.updater is not None
            return ExecutionError(f"{UPDATER} {self._pool.updater.describe_end()}.")
        began = [self._running.get(self._store.read_doing(source, lane)) for lane in DEVICE_LANES]
        doing = next((command for command in began if command is not None and command.device == source), None)
        what = (
            "while idle" if doing is None else f"during the {doing.kind.value} of {doing.unit} (job {doing.unit.job!r})"
        )
        return ExecutionError(f"{_named(source)} {self._pool.workers[source].describe_end()} {what}.")

    def _send(self, device: int, message: object) -> None:
        try:
            self._pool.workers[device].connection.send(message)
        except (BrokenPipeError, OSError):
            raise self._lost(device) from None


def _named(source: Source) -> str:
    if source is None:
        return UPDATER
    return f"the worker of device {source}" if isinstance(source, int) else f"job {source!r}: its loader"
