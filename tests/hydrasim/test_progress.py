"""A job's progress: which units are next, and how much training remains."""

from __future__ import annotations

import pytest

from hydrasim import Phase, ShardUnit
from hydrasim.dag import Templates, minibatch_dag
from hydrasim.progress import JobProgress
from hydrasim.workload import TrainingJob
from tests.worlds import job


def progress_of(started: TrainingJob, dag: object = None) -> JobProgress:
    templates = Templates.of_job(started, dag)  # type: ignore[arg-type]
    return JobProgress(0, started, templates, [started.unit_s(*node) for node in templates.with_step.nodes])


def texts(units: list[ShardUnit]) -> list[str]:
    return [str(unit) for unit in units]


def run_units(progress: JobProgress, count: int) -> None:
    for sequence in range(count):
        (unit,) = progress.front()
        progress.issue(unit, 0, sequence)
        progress.finish(unit, 1.0)


def test_a_chain_is_issued_one_unit_after_the_other():
    progress = progress_of(job(shards=2, minibatches=2))
    seen = []
    while progress.front():
        seen += texts(progress.front())
        run_units(progress, 1)
    assert seen == ["A/F0#0", "A/L1#0", "A/B0#0", "A/F0#1", "A/L1#1", "A/B0#1"]
    assert progress.finished


def test_nothing_is_in_front_while_a_unit_runs_but_its_successor_can_be_looked_up():
    progress = progress_of(job(shards=2, minibatches=2))
    (first,) = progress.front()
    progress.issue(first, 0, 0)
    assert progress.front() == []
    assert texts(progress.successors(first)) == ["A/L1#0"]
    assert texts(progress.issuable()) == ["A/L1#0"]


def test_the_successor_of_a_last_unit_opens_the_next_minibatch():
    progress = progress_of(job(shards=1, minibatches=2))
    (first,) = progress.front()
    progress.issue(first, 0, 0)
    (second,) = progress.successors(first)
    assert str(second) == "A/L0#1"
    progress.issue(second, 0, 1)
    assert progress.successors(second) == progress.front() == []
    progress.finish(first, 1.0)
    progress.finish(second, 1.0)
    assert progress.finished


def test_with_a_missing_edge_two_units_are_in_front():
    open_job = job(shards=2, minibatches=2)
    dag = minibatch_dag(open_job)
    dag.remove_edge((Phase.FORWARD, 0), (Phase.LOSS, 1))
    progress = progress_of(open_job, dag)
    assert texts(progress.front()) == ["A/F0#0", "A/L1#0"]
    run_one = ShardUnit.parse("A/L1#0")
    progress.issue(run_one, 0, 0)
    progress.finish(run_one, 1.0)
    assert texts(progress.front()) == ["A/F0#0", "A/B0#0"]


@pytest.mark.parametrize(
    ("done", "minibatches_left", "minibatch_left_s", "remaining_s"),
    [
        # 2 epochs of 2 mini-batches, each F0 1 s, L1 2 s, B0 1 s; ((e - 1) b + c_e - 1) t + c_m
        (0, 3, 4.0, ((2 - 1) * 2 + 2 - 1) * 4.0 + 4.0),
        (1, 3, 3.0, 15.0),
        (2, 3, 1.0, 13.0),
        (3, 3, 0.0, 12.0),
        (4, 2, 3.0, 11.0),
        (7, 1, 3.0, 7.0),
        (12, 0, 0.0, 0.0),
    ],
)
def test_remaining_time_is_algorithm_2s(done: int, minibatches_left: int, minibatch_left_s: float, remaining_s: float):
    progress = progress_of(job(shards=2, minibatches=2, epochs=2))
    run_units(progress, done)
    assert progress.minibatches_left == minibatches_left
    assert (progress.minibatch_left_s, progress.remaining_s) == (minibatch_left_s, remaining_s)


def test_history_counts_devices_seconds_and_issues():
    progress = progress_of(job(shards=2))
    for sequence, device in ((3, 1), (7, 0), (9, 1)):
        (unit,) = progress.front()
        progress.issue(unit, device, sequence)
        progress.finish(unit, 0.5)
    assert progress.devices == {1: 2, 0: 1}
    assert (progress.busy_s, progress.last_issue, progress.num_issued_units) == (1.5, 9, 3)
    assert progress.minibatches_done == 1
