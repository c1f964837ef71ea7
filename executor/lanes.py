"""Lanes of a worker: threads that take commands in order and hold their place while they wait."""

from __future__ import annotations

import gc
import threading
import time
import traceback
from collections.abc import Callable, Container
from queue import SimpleQueue

from executor.messages import Broken, Done, Order
from hydrasim.errors import told

Execute = Callable[[Order], float | None]
Report = Callable[[Done | Broken], None]


class Completions:
    """Which commands are still to come: those queued here and those awaited from elsewhere."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pending: dict[int, threading.Event] = {}

    def expect(self, number: int) -> None:
        with self._lock:
            self._pending.setdefault(number, threading.Event())

    def done(self, number: int) -> None:
        with self._lock:
            event = self._pending.pop(number, None)
        if event is not None:
            event.set()

    def events(self, numbers: tuple[int, ...]) -> list[threading.Event]:
        """Return what to wait for; numbers that are not pending are done."""
        with self._lock:
            return [self._pending[number] for number in numbers if number in self._pending]


class Reporter(threading.Thread):
    """Sends what lanes report, so that no lane has to; what has piled up meanwhile goes as one message."""

    def __init__(self, send: Callable[[list[Done | Broken]], None]) -> None:
        super().__init__(name="reporter", daemon=True)
        self._queue: SimpleQueue[Done | Broken | None] = SimpleQueue()
        self._send = send

    def report(self, message: Done | Broken) -> None:
        self._queue.put(message)

    def stop(self) -> None:
        """Let the thread end once it has sent what is queued."""
        self._queue.put(None)

    def run(self) -> None:
        while (message := self._queue.get()) is not None:
            batch = [message]
            while not self._queue.empty() and (message := self._queue.get()) is not None:
                batch.append(message)
            self._send(batch)
            if message is None:
                return


class LaneThread(threading.Thread):
    """One lane: wait for a command's predecessors, carry it out, report, go on with the next.

    skipped: numbers of commands that are to be reported without having been carried out. core_s: CPU seconds that it
    has taken up to its newest command.
    """

    def __init__(
        self, name: str, execute: Execute, report: Report, completions: Completions, skipped: Container[int] = ()
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._queue: SimpleQueue[tuple[Order, list[threading.Event]] | None] = SimpleQueue()
        self._execute, self._report, self._completions, self._skipped = execute, report, completions, skipped
        self.core_s = 0.0

    def submit(self, order: Order, waits: list[threading.Event]) -> None:
        self._queue.put((order, waits))

    def stop(self) -> None:
        """Let the thread end once it has done what is queued."""
        self._queue.put(None)

    def run(self) -> None:
        while (entry := self._queue.get()) is not None:
            order, waits = entry
            for event in waits:
                event.wait()
            message = self._carried_out(order)
            self.core_s = time.thread_time()
            self._completions.done(order.command.number)
            self._report(message)
            if isinstance(message, Broken):
                gc.collect()  # what a unit had alive hangs on frames that refer to each other

    def _carried_out(self, order: Order) -> Done | Broken:
        command, started = order.command, time.monotonic()
        try:
            result = None if command.number in self._skipped else self._execute(order)
        except BaseException as error:
            return Broken(command.number, command.kind.value, told(error), traceback.format_exc())
        return Done(command.number, started, time.monotonic(), result)
