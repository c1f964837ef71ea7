"""What training came to, job by job, and who is told of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from executor.callbacks import Callback, EvaluationDone, MinibatchDone
from executor.checkpoint import Checkpoint
from executor.errors import ExecutionError
from executor.evaluation import Score, mean_of
from hydrasim.command import JobStopped
from hydrasim.errors import told
from hydrasim.schedule import Schedule
from hydrasim.workload import ShardUnit, TrainingJob


class Accounts:
    """Losses by job, one a mini-batch, in order; metrics, one an evaluation. A unit that is redone is told of once.

    callbacks: told of each. stops: what they ask for. failures: jobs that cannot go on, and why.
    """

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self.losses: dict[str, list[float]] = {}
        self.metrics: dict[str, list[float]] = {}
        self.stops: list[JobStopped] = []
        self.failures: list[tuple[str, ExecutionError]] = []
        self._callbacks = callbacks
        self._schedules: dict[str, Schedule] = {}
        self._scores: dict[str, list[Score]] = {}  # of the newest evaluation
        self._newest: dict[str, int] = {}  # mini-batch that was told of
        self._scales: dict[str, bool] = {}

    def open(self, job: TrainingJob, checkpoint: Checkpoint | None = None, *, scales: bool = False) -> None:
        """Keep account of one more job, which may go on from a checkpoint. scales: its losses, which may overflow."""
        self._schedules[job.name], self._scales[job.name] = job.schedule, scales
        self.losses[job.name], self.metrics[job.name], self._scores[job.name] = [], [], []
        self._newest[job.name] = -1
        if checkpoint is not None:
            self.losses[job.name] += checkpoint.numbers("losses")
            self.metrics[job.name] += checkpoint.numbers("metrics")
            self._newest[job.name] = checkpoint.facts.minibatch - 1

    def before(self, job: str, minibatch: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return the losses and the metrics of a job's mini-batches before one."""
        schedule = self._schedules[job]
        num_trained = schedule.trained_before(minibatch)
        return tuple(self.losses[job][:num_trained]), tuple(self.metrics[job])

    def has_finished(self, job: TrainingJob) -> bool:
        """Tell whether a job was trained and evaluated to its end, and so was not stopped."""
        num_evaluations = job.schedule.num_epochs if job.evaluation_minibatches else 0
        done = len(self.losses[job.name]), len(self.metrics[job.name])
        return done == (job.schedule.num_trained, num_evaluations)

    def trained(self, unit: ShardUnit, loss: float, at_s: float) -> None:
        """Note the loss of a mini-batch."""
        losses, schedule = self.losses[unit.job], self._schedules[unit.job]
        number = schedule.trained_before(unit.minibatch)
        losses[number:] = [loss]
        if not (math.isfinite(loss) or self._scales[unit.job]):
            text = f"job {unit.job!r}: the loss of mini-batch {number} is {loss}"
            self.failures.append((unit.job, ExecutionError(text)))
        elif self._is_news(unit):
            self._tell(self._callbacks, MinibatchDone(unit.job, number, schedule.num_trained, loss, at_s))

    def evaluated(self, unit: ShardUnit, score: Score, at_s: float) -> None:
        """Collect a mini-batch's score; the last one of an epoch makes its metric."""
        scores, schedule = self._scores[unit.job], self._schedules[unit.job]
        place, epoch = schedule.place(unit.minibatch), schedule.epoch(unit.minibatch)
        scores[place:] = [score]
        if not schedule.ends_evaluation(unit.minibatch):
            return
        metric = mean_of(scores)
        self.metrics[unit.job][epoch:] = [metric]
        if self._is_news(unit):
            told_of = [callback.on_evaluation for callback in self._callbacks if hasattr(callback, "on_evaluation")]
            self._tell(told_of, EvaluationDone(unit.job, epoch, schedule.num_epochs, metric, at_s))

    def _is_news(self, unit: ShardUnit) -> bool:
        """Tell whether a mini-batch is done for the first time, and remember it."""
        before, self._newest[unit.job] = self._newest[unit.job], max(self._newest[unit.job], unit.minibatch)
        return unit.minibatch > before

    def _tell(self, callbacks: Sequence[Callable[[Any], Any]], done: MinibatchDone | EvaluationDone) -> None:
        """Call callbacks in turn; one that returns True stops the job."""
        for callback in callbacks:
            try:
                if callback(done) is True:
                    self.stops.append(JobStopped(done.job, done.at_s))
            except Exception as reason:
                error = ExecutionError(f"a callback failed after {done.what} of job {done.job!r}: {told(reason)}")
                error.__cause__ = reason
                self.failures.append((done.job, error))
                return
