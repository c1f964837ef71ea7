"""What befalls jobs of a run from outside: they are submitted, added, stopped, paused or resumed, or they fail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydrasim.command import Happening, JobAdded, JobArrived, JobFailed, JobPaused, JobStopped, JobSuspended
from hydrasim.dag import Templates
from hydrasim.profile import StatedCosts
from hydrasim.saving import save_if_due
from hydrasim.setting_aside import set_aside
from hydrasim.workload import Phase, ShardUnit, TrainingJob, Workload

if TYPE_CHECKING:
    from hydrasim.orchestrator import Orchestrator
    from hydrasim.progress import JobProgress


def heed(run: Orchestrator, event: Happening) -> None:
    """Have a job of a run begin, end, rest or go on.

    Raises:
        WorkloadError, HydraError: a job that is added has the name of another, or no room.
    """
    if isinstance(event, JobAdded):
        _add(run, event.training_job)
    elif run.progress[event.job].is_set_aside:
        return
    elif isinstance(event, JobFailed):
        run.withdrawn = set_aside(run, event.job)
    elif isinstance(event, JobArrived):
        _arrive(run, run.progress[event.job])
    elif isinstance(event, JobStopped | JobSuspended):
        _stop(run, run.progress[event.job], resumable=isinstance(event, JobSuspended))
    else:
        run.progress[event.job].pause(isinstance(event, JobPaused))


def _arrive(run: Orchestrator, progress: JobProgress) -> None:
    if not progress.finished:
        progress.arrive()
        run.fetch(progress, 0, set())


def _stop(run: Orchestrator, progress: JobProgress, *, resumable: bool) -> None:
    if not progress.finished:  # what is fetched for the next mini-batch is left unused
        if not resumable:
            progress.saving = -1  # a checkpoint says whether its job has ended
        progress.stop(resumable=resumable)
        run.num_jobs_done += progress.finished
        if run.residency is not None and progress.num_issued_units:
            last = ShardUnit(progress.job.name, Phase.BACKWARD, 0, progress.minibatch)
            run.residency.stop(progress.job, last, run.emit)
            save_if_due(run, progress)


def _add(run: Orchestrator, job: TrainingJob) -> None:
    grown = Workload((*run.workload.jobs, job))
    if run.residency is not None:
        run.residency.add(job, run.workload)
    run.workload = grown
    run.beliefs_by_job[job.name] = StatedCosts(Workload((job,)), run.cluster)
    progress = run.at_the_beginning(job, Templates.of_job(job), len(run.progress))
    run.progress[job.name] = progress
    run.fetch(progress, 0, set())
