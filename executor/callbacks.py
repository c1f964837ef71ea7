"""What a run tells while it goes: callables for `train(callbacks=...)`, called after every mini-batch that trained.

with CsvLog(Path("logs")) as log, LiveTable() as table:
    train(jobs, devices, callbacks=[log, table, EarlyStopping(patience=100)])

One that has a method `on_evaluation` has it called after every evaluation. What returns True stops the job: it ends
with the mini-batch at which it is by then, and the others go on.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, get_args

from executor.errors import ExecutionError
from hydrasim.disk import make_folder

if TYPE_CHECKING:
    from types import TracebackType


Callback = Callable[["MinibatchDone"], Any]
Judged = Literal["loss", "metric"]


@dataclass(frozen=True)
class MinibatchDone:
    """A mini-batch that was trained on. number: from 0 on. at_s: seconds since the run began."""

    job: str
    number: int
    num_minibatches: int
    loss: float
    at_s: float

    @property
    def what(self) -> str:
        """What was done, in a sentence."""
        return f"mini-batch {self.number}"


@dataclass(frozen=True)
class EvaluationDone:
    """The evaluation that ended an epoch, from 0 on. metric: the mean over its samples. at_s: since the run began."""

    job: str
    epoch: int
    num_epochs: int
    metric: float
    at_s: float

    @property
    def what(self) -> str:
        """What was done, in a sentence."""
        return f"the evaluation of epoch {self.epoch}"


class EarlyStopping:
    """Stops a job whose loss has not fallen below its least for so many mini-batches.

    patience: that number. min_delta: what counts as falling. by: "metric" to look at evaluations instead, and count
    these. greatest: rising is better, as of an accuracy.

    Raises:
        ExecutionError: by is something else.
    """

    def __init__(self, patience: int, min_delta: float = 0.0, *, by: Judged = "loss", greatest: bool = False) -> None:
        if by not in get_args(Judged):
            raise ExecutionError(f"early stopping goes by {by!r}; it is {' or '.join(get_args(Judged))}.")
        self._patience, self._min_delta, self._by, self._sign = patience, min_delta, by, -1.0 if greatest else 1.0
        self._best: dict[str, tuple[float, int]] = {}

    def __call__(self, done: MinibatchDone) -> bool:
        return self._by == "loss" and self._has_lost_patience(done.job, done.number, done.loss)

    def on_evaluation(self, done: EvaluationDone) -> bool:
        return self._by == "metric" and self._has_lost_patience(done.job, done.epoch, done.metric)

    def _has_lost_patience(self, job: str, number: int, value: float) -> bool:
        least, at = self._best.get(job, (math.inf, number))
        if self._sign * value < least - self._min_delta:
            self._best[job] = self._sign * value, number
            return False
        return number - at >= self._patience


class Log(AbstractContextManager["Log"]):
    """A callback that holds something open; leaving the `with` closes it."""

    def __call__(self, done: MinibatchDone) -> None:
        raise NotImplementedError

    def on_evaluation(self, done: EvaluationDone) -> None:
        raise NotImplementedError

    def close(self) -> None:
        """Give up what is open."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class CsvLog(Log):
    """Writes a file a job into a folder, a line a mini-batch as it ends: minibatch, loss, at_s.

    Evaluations go into a file a job of the folder evaluation/ in it: epoch, metric, at_s.

    Raises:
        HydraError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        make_folder(folder)
        self._folder = folder
        self._files: dict[Path, IO[str]] = {}

    def __call__(self, done: MinibatchDone) -> None:
        path = self._folder / f"{done.job}.csv"
        self._write(path, ("minibatch", "loss", "at_s"), (done.number, done.loss, f"{done.at_s:.6f}"))

    def on_evaluation(self, done: EvaluationDone) -> None:
        path = self._folder / "evaluation" / f"{done.job}.csv"
        self._write(path, ("epoch", "metric", "at_s"), (done.epoch, done.metric, f"{done.at_s:.6f}"))

    def close(self) -> None:
        while self._files:
            self._files.popitem()[1].close()

    def _write(self, path: Path, head: Sequence[str], cells: Sequence[object]) -> None:
        if path not in self._files:
            make_folder(path.parent)
            self._files[path] = path.open("w", newline="", buffering=1)
            csv.writer(self._files[path], lineterminator="\n").writerow(head)
        csv.writer(self._files[path], lineterminator="\n").writerow(cells)


class TensorBoardLog(Log):
    """Writes every job's loss, and metric, as a run of its own, for `tensorboard --logdir FOLDER`.

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
        self._writer(done.job).add_scalar("loss", done.loss, done.number)

    def on_evaluation(self, done: EvaluationDone) -> None:
        self._writer(done.job).add_scalar("metric", done.metric, done.epoch)

    def _writer(self, job: str) -> Any:
        if job not in self._writers:
            self._writers[job] = self._make(str(self._folder / job))
        return self._writers[job]

    def close(self) -> None:
        while self._writers:
            self._writers.popitem()[1].close()


class LiveTable(Log):
    """Shows a line a job in the terminal: how far it is, its newest loss and metric. console: by default stderr."""

    def __init__(self, console: Any = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self._newest: dict[str, MinibatchDone] = {}
        self._metrics: dict[str, float] = {}
        self._live = Live(console=console or Console(stderr=True), get_renderable=self.table)
        self._live.start()

    def __call__(self, done: MinibatchDone) -> None:
        self._newest[done.job] = done

    def on_evaluation(self, done: EvaluationDone) -> None:
        self._metrics[done.job] = done.metric

    def table(self) -> Any:
        """Return the table as it is now."""
        from rich.table import Table

        made = Table("job", "mini-batches", "loss", *(["metric"] if self._metrics else []), "at")
        for job, done in sorted(self._newest.items()):
            metric = [f"{self._metrics[job]:.4f}" if job in self._metrics else ""] if self._metrics else []
            far = f"{done.number + 1} / {done.num_minibatches}"
            made.add_row(job, far, f"{done.loss:.4f}", *metric, f"{done.at_s:.1f} s")
        return made

    def close(self) -> None:
        self._live.stop()
