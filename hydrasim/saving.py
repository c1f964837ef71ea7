"""Checkpoints of jobs: after which mini-batches a job's state is kept on disk, and what waits for that.

    device   ..= B0#9 ==|                           |= F0#10 ==   the job's next mini-batch
    d2h                 |=w0=|=w2=|                  ^
    loader   ... fetch #10         |== save #9 ======|             other jobs' units fill the gap

All of a job's state goes home first, also what was to stay on a device, and nothing of the next mini-batch begins
before it is saved; so what is saved is of one moment.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydrasim.command import HOST, Kind, Lane
from hydrasim.dataflow import home_bytes, state_keys
from hydrasim.errors import HydraError
from hydrasim.workload import ShardUnit

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hydrasim.orchestrator import Orchestrator
    from hydrasim.progress import JobProgress


def begin_at(run: Orchestrator, begun: Mapping[str, int]) -> None:
    """Have jobs go on at the mini-batch at which their checkpoints are. begun: it, by job.

    Raises:
        HydraError: the run follows a plan, or its state has no room in host memory, or there is no such mini-batch.
    """
    saves = run.mechanism.checkpoint_every is not None
    if (begun or saves) and run.residency is not None and run.residency.host.pages:
        raise HydraError("checkpoints take host memory for all state; give it more, or train fewer jobs at a time.")
    if any(begun.values()) and run.following is not None:
        raise HydraError("a plan says what whole jobs do; those that go on from checkpoints take a policy.")
    for name, minibatch in begun.items():
        progress = run.progress[name]
        if not 0 <= minibatch <= progress.job.num_minibatches:
            raise HydraError(f"job {name!r} cannot go on at mini-batch {minibatch} of {progress.job.num_minibatches}.")
        if minibatch:
            progress.saved = minibatch
            progress.restart()
            run.num_jobs_done += progress.finished


def save_if_due(run: Orchestrator, progress: JobProgress) -> None:
    """Have a job's state saved after the mini-batch at which it is, if that is to be and all its units are issued."""
    every = run.mechanism.checkpoint_every
    if run.residency is None or every is None or not progress.is_all_issued or progress.saving == progress.minibatch:
        return
    job, minibatch = progress.job, progress.minibatch
    if not job.schedule.saves_after(minibatch, every):
        return
    unit = ShardUnit(job.name, *progress.template.nodes[-1], minibatch)
    after = run.residency.bring_home(job, unit, run.emit) | run.precedence.computes_of(progress, minibatch)
    nbytes = sum(home_bytes(job, key) for key in state_keys(job))
    command = run.emit(Kind.SAVE, Lane.HOST, HOST, unit, after, nbytes=nbytes)
    progress.saving = minibatch
    progress.note_host_work(1)
    run.precedence.note_save(job.name, command.number)


def saved(progress: JobProgress) -> None:
    """Note that the state is saved that was to be."""
    progress.saved = progress.saving + 1
    progress.note_host_work(-1)


def not_saved(progress: JobProgress) -> None:
    """Note that the state is not to be saved after all."""
    progress.saving = progress.saved - 1
    progress.note_host_work(-1)
