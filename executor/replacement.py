"""Starts a process in the place of one that ended, in a thread of its own, while the run goes on."""

from __future__ import annotations

import threading
from collections.abc import Callable

from executor.messages import Broken
from executor.process import Child


class Replacement:
    """A worker that is being started for a device, or, for none, the process that updates in host memory.

    child: once it takes orders; error: why there is none. num_jobs: those that it was set up for. send: gives a new
    process its setup. told: called when either is known, in the thread that starts it.
    """

    def __init__(
        self, device: int | None, num_jobs: int, send: Callable[[Child], None], told: Callable[[], None]
    ) -> None:
        self.device, self.num_jobs = device, num_jobs
        self.child: Child | None = None
        self.error = ""
        self._send, self._told = send, told
        self._starting = Child("executor.updater" if device is None else "executor.worker")
        self._thread = threading.Thread(target=self._start, name=f"restart of {device}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the worker; it is not in use."""
        self._starting.end()
        self._thread.join()
        self._starting.kill()

    def _start(self) -> None:
        try:
            self._send(self._starting)
            answer = self._starting.connection.recv()
        except (EOFError, OSError):
            answer = Broken(-1, "setup", f"it {self._starting.describe_end()}")
        if isinstance(answer, Broken):
            self.error = answer.text
        else:
            self.child = self._starting
        self._told()
