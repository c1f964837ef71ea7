"""Adds, pauses, resumes and stops jobs of a run, from a callback or from another thread."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from executor.errors import ExecutionError
from executor.job import TorchJob
from executor.stage import Admitted, Stage
from hydrasim.command import JobPaused, JobResumed, JobStopped

Change = tuple[type[JobPaused | JobResumed | JobStopped], str]  # what is to happen to a job
Asked = Change | Admitted


class Control:
    """Give it to `train`, and ask it for what is to happen to jobs: one run at a time, from any thread.

    Other than of `add`, what is asked for before a run happens at its beginning.

    control = Control()
    threading.Thread(target=train, args=(jobs, devices), kwargs={"control": control}).start()
    control.pause("A")
    """

    def __init__(self) -> None:
        self._lock, self._adding = threading.Lock(), threading.Lock()
        self._asked: deque[Asked] = deque()
        self.reader: Connection | None = None
        self._writer: Connection | None = None
        self._stage: Stage | None = None

    def add(self, job: TorchJob) -> None:
        """Train one more job in the run under way, beside its others.

        It is cut here and now, by running it forward and backward; a callback that adds one holds up its run meanwhile.
        It has the arena that the run has, and its activation peak and constant tensors must do with what the run's jobs
        set apart and `prepare(reserve_bytes=...)`. Its result is the run's, "stopped" and without losses if that was
        over before it began.

        Raises:
            ExecutionError: no run is under way. JobError: the job is unsupported, or its name or model another's.
            ShardTooLarge, HostMemoryError: it does not fit. The run goes on.
        """
        with self._adding:
            stage = self._stage
            if stage is None:
                raise ExecutionError(f"no run is under way to add {job.name!r} to; give it to `train`.")
            admitted = stage.admit(job)
            with self._lock:
                self._ask(admitted)

    def pause(self, job: str) -> None:
        """Have nothing of a job begin any more; what it has on devices makes room as others need it.

        A run with nothing left but paused jobs waits for one to be resumed or stopped.

        Raises:
            ExecutionError: no job of the run under way has that name.
        """
        self._change(JobPaused, job)

    def resume(self, job: str) -> None:
        """Let a paused job go on; see `pause`."""
        self._change(JobResumed, job)

    def stop(self, job: str) -> None:
        """Have a job end with the mini-batch at which it is; see `pause`."""
        self._change(JobStopped, job)

    @contextmanager
    def listening(self, stage: Stage) -> Iterator[list[Change]]:
        """Have a run on this stage read `reader` meanwhile; yield what was asked for before it. For `train`.

        Raises:
            ExecutionError: another run does, or no job has a name that was asked for before.
        """
        with self._lock:
            if self._stage is not None:
                raise ExecutionError("this Control is in use by a run; give each its own.")
            early = [asked for asked in self._asked if isinstance(asked, tuple)]
            self._asked.clear()
            for _, job in early:
                _check(job, stage)
            self.reader, self._writer = Pipe(duplex=False)
            self._stage = stage
        try:
            yield early
        finally:
            with self._lock:
                assert self._writer is not None
                assert self.reader is not None
                self._writer.close()
                self.reader.close()
                self.reader = self._writer = self._stage = None
                self._asked.clear()

    def taken(self) -> Iterator[Asked]:
        """Yield what has been asked for and not yet been taken. For the backend."""
        while self._asked:
            yield self._asked.popleft()

    def _change(self, what: type[JobPaused | JobResumed | JobStopped], job: str) -> None:
        with self._lock:
            if self._stage is not None:
                _check(job, self._stage)
            self._ask((what, job))

    def _ask(self, asked: Asked) -> None:
        """Note it, and wake the run up."""
        self._asked.append(asked)
        if self._writer is not None:
            self._writer.send_bytes(b"!")


def _check(job: str, stage: Stage) -> None:
    if job not in stage.admitted:
        raise ExecutionError(f"no job of the run is named {job!r}; there are {', '.join(sorted(stage.admitted))}.")
