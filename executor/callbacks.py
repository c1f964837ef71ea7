"""What a run tells while it goes: callables for `train(callbacks=...)`, called after every mini-batch of every job.

with CsvLog(Path("logs")) as log, LiveTable() as table:
    train(jobs, devices, callbacks=[log, table, EarlyStopping(patience=100)])

One that returns True stops the job: it ends with the mini-batch at which it is by then, and the others go on.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from executor.errors import ExecutionError
from hydrasim.disk import make_folder

if TYPE_CHECKING:
    from types import TracebackType


Callback = Callable[["MinibatchDone"], Any]


@dataclass(frozen=True)
class MinibatchDone:
    """A mini-batch that was trained on. number: from 0 on. at_s: seconds since the run began."""

    job: str
    number: int
    num_minibatches: int
    loss: float
    at_s: float


class EarlyStopping:
    """Stops a job whose loss has not fallen below its least for so many mini-batches.

    patience: that number. min_delta: what counts as falling.
    """

    def __init__(self, patience: int, min_delta: float = 0.0) -> None:
        self._patience, self._min_delta = patience, min_delta
        self._best: dict[str, tuple[float, int]] = {}

    def __call__(self, done: MinibatchDone) -> bool:
        least, at = self._best.get(done.job, (math.inf, done.number))
        if done.loss < least - self._min_delta:
            self._best[done.job] = done.loss, done.number
            return False
        return done.number - at >= self._patience


class Log(AbstractContextManager["Log"]):
    """A callback that holds something open; leaving the `with` closes it."""

    def __call__(self, done: MinibatchDone) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Give up what is open."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class CsvLog(Log):
    """Writes a file a job into a folder, a line a mini-batch as it ends: minibatch, loss, at_s.

    Raises:
        HydraError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self._folder = folder
        self._files: dict[str, IO[str]] = {}

    def __call__(self, done: MinibatchDone) -> None:
        if done.job not in self._files:
            self._files[done.job] = (self._folder / f"{done.job}.csv").open("w", newline="", buffering=1)
            self._write(done.job, "minibatch", "loss", "at_s")
        self._write(done.job, done.number, done.loss, f"{done.at_s:.6f}")

    def close(self) -> None:
        while self._files:
            self._files.popitem()[1].close()

    def _write(self, job: str, *cells: object) -> None:
        csv.writer(self._files[job], lineterminator="\n").writerow(cells)


class TensorBoardLog(Log):
    """Writes every job's loss as a run of its own, for `tensorboard --logdir FOLDER`.

    Raises:
        ExecutionError: the package tensorboard is missing.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as reason:
            raise ExecutionError(f"a TensorBoard log needs the package tensorboard ({reason}).") from None
        self._make = SummaryWriter
        self._folder = folder
        self._writers: dict[str, Any] = {}

    def __call__(self, done: MinibatchDone) -> None:
        if done.job not in self._writers:
            self._writers[done.job] = self._make(str(self._folder / done.job))
        self._writers[done.job].add_scalar("loss", done.loss, done.number)

    def close(self) -> None:
        while self._writers:
            self._writers.popitem()[1].close()


class LiveTable(Log):
    """Shows a line a job in the terminal: how far it is, and its newest loss. console: where, by default stderr."""

    def __init__(self, console: Any = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self._newest: dict[str, MinibatchDone] = {}
        self._live = Live(console=console or Console(stderr=True), get_renderable=self.table)
        self._live.start()

    def __call__(self, done: MinibatchDone) -> None:
        self._newest[done.job] = done

    def table(self) -> Any:
        """Return the table as it is now."""
        from rich.table import Table

        made = Table("job", "mini-batches", "loss", "at")
        for job, done in sorted(self._newest.items()):
            made.add_row(job, f"{done.number + 1} / {done.num_minibatches}", f"{done.loss:.4f}", f"{done.at_s:.1f} s")
        return made

    def close(self) -> None:
        self._live.stop()
