"""What befalls jobs from outside changes what of them may be issued, and nothing else."""

from __future__ import annotations

import pytest

from hydrasim.command import JobAdded, JobArrived, JobPaused, JobResumed, JobStopped, Kind
from hydrasim.errors import WorkloadError
from hydrasim.heeding import heed
from hydrasim.orchestrator import Orchestrator
from hydrasim.policies import make_policy
from hydrasim.profile import StatedCosts
from tests.worlds import devices, heavy, job, workload


def brain(*jobs, count: int = 1) -> Orchestrator:
    jobs, cluster = workload(*jobs), devices(count)
    return Orchestrator(jobs, cluster, make_policy("fifo"), StatedCosts(jobs, cluster))


def test_a_job_arrives_once_and_its_loader_begins():
    run = brain(heavy("A"), job("B", arrival_s=2.0))
    assert not run.progress["B"].arrived
    heed(run, JobArrived("B", 2.0))
    assert run.progress["B"].arrived
    assert [(c.kind, c.unit.job) for c in run.outstanding.values()] == [(Kind.FETCH, "B")]


def test_a_paused_job_offers_nothing_until_it_is_resumed():
    run = brain(heavy("A"))
    run.start()
    heed(run, JobPaused("A", 1.0))
    assert run.progress["A"].front() == []
    heed(run, JobResumed("A", 2.0))
    assert not run.progress["A"].paused


def test_a_job_that_has_not_begun_is_done_when_it_is_stopped():
    run = brain(heavy("A"), heavy("B"))
    heed(run, JobStopped("B", 0.0))
    heed(run, JobStopped("B", 0.0))
    assert run.num_jobs_done == 1


def test_a_job_is_added_at_the_end_and_its_name_must_be_new():
    run = brain(heavy("A"))
    heed(run, JobAdded("B", 1.0, heavy("B")))
    assert list(run.progress) == ["A", "B"]
    assert run.progress["B"].order == 1
    assert run.beliefs_of("B") is not run.beliefs_of("A")
    with pytest.raises(WorkloadError, match="two jobs are named 'B'"):
        heed(run, JobAdded("B", 1.0, heavy("B")))
