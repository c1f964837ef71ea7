"""Pauses, resumes and stops jobs of a run, from a callback or from another thread."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from executor.errors import ExecutionError
from hydrasim.command import JobPaused, JobResumed, JobStopped

Asked = tuple[type[JobPaused | JobResumed | JobStopped], str]  # what is to happen to a job


class Control:
    """Give it to `train`, and ask it for what is to happen to jobs: one run at a time, from any thread.

    What is asked for before a run happens at its beginning.

    control = Control()
    threading.Thread(target=train, args=(jobs, devices), kwargs={"control": control}).start()
    control.pause("A")
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._early: list[Asked] = []
        self.reader: Connection | None = None
        self._writer: Connection | None = None
        self._jobs: frozenset[str] = frozenset()

    def pause(self, job: str) -> None:
        """Have nothing of a job begin any more; what it has on devices makes room as others need it.

        A run with nothing left but paused jobs waits for one to be resumed or stopped.

        Raises:
            ExecutionError: no job of the run under way has that name.
        """
        self._ask(JobPaused, job)

    def resume(self, job: str) -> None:
        """Let a paused job go on; see `pause`."""
        self._ask(JobResumed, job)

    def stop(self, job: str) -> None:
        """Have a job end with the mini-batch at which it is; see `pause`."""
        self._ask(JobStopped, job)

    @contextmanager
    def listening(self, jobs: Iterable[str]) -> Iterator[list[Asked]]:
        """Have a run of these jobs read `reader` meanwhile; yield what was asked for before it. For `train`.

        Raises:
            ExecutionError: another run does, or no job has a name that was asked for before.
        """
        with self._lock:
            if self._writer is not None:
                raise ExecutionError("this Control is in use by a run; give each its own.")
            self._jobs, early, self._early = frozenset(jobs), self._early, []
            for _, job in early:
                self._check(job)
            self.reader, self._writer = Pipe(duplex=False)
        try:
            yield early
        finally:
            with self._lock:
                self._writer.close()
                self.reader.close()
                self.reader = self._writer = None

    def _ask(self, what: type[JobPaused | JobResumed | JobStopped], job: str) -> None:
        with self._lock:
            if self._writer is None:
                self._early.append((what, job))
                return
            self._check(job)
            self._writer.send([(what, job)])

    def _check(self, job: str) -> None:
        if job not in self._jobs:
            raise ExecutionError(f"no job of the run is named {job!r}; there are {', '.join(sorted(self._jobs))}.")
