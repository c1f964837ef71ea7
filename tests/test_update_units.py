"""Steps in units of their own: after the last backward, on gradients of one mini-batch or of several."""

from __future__ import annotations

import pytest

from hydrasim import Cluster, Device, Phase, Shard, ShardUnit, TrainingJob, Workload, simulate
from hydrasim.dag import Templates, kinds_of_minibatches, minibatch_dag
from hydrasim.dataflow import BlockKey, dataflow, is_last_update, neediest_unit, passing_keys, updates_state
from hydrasim.errors import WorkloadError
from hydrasim.progress import JobProgress

SHARD = Shard(1.0, 1.0, parameter_bytes=64, optimizer_bytes=128, update_s=0.5, gradient_bytes=64)


def job(accumulate: int = 1, minibatches: int = 4, shard: Shard = SHARD) -> TrainingJob:
    return TrainingJob("A", (shard, shard), minibatches, update_units=True, accumulate=accumulate)


def unit(text: str) -> ShardUnit:
    return ShardUnit.parse(text)


def read(job: TrainingJob, text: str) -> dict[str, int]:
    return {str(key): nbytes for key, nbytes in dataflow(job, unit(text)).reads}


def test_updates_follow_the_last_backward():
    chain = [f"{phase.value}{shard}" for phase, shard in minibatch_dag(job()).nodes]
    assert chain == ["F0", "L1", "B0", "U0", "U1"]
    without = [f"{phase.value}{shard}" for phase, shard in minibatch_dag(job(accumulate=2), 0).nodes]
    assert without == ["F0", "L1", "B0"]


def test_what_is_left_over_makes_no_step():
    counted = job(accumulate=3, minibatches=8)
    schedule = counted.schedule
    assert (schedule.num_steps, schedule.last_step, counted.num_units) == (2, 5, 8 * 3 + 2 * 2)
    assert [schedule.steps_after(minibatch) for minibatch in range(8)] == [False, False, True] * 2 + [False] * 2


@pytest.mark.parametrize(
    ("accumulate", "minibatches", "kinds"),
    [
        (1, 1, [(0, 1)]),
        (1, 4, [(0, 1), (1, 3)]),
        (2, 5, [(0, 1), (1, 2), (2, 2)]),
        (3, 7, [(0, 1), (2, 2), (1, 4)]),
        (4, 3, [(0, 1), (1, 2)]),
    ],
)
def test_mini_batches_are_of_few_kinds(accumulate, minibatches, kinds):
    assert kinds_of_minibatches(job(accumulate, minibatches)) == kinds


def test_a_backward_needs_no_optimizer_state_and_leaves_gradients():
    assert read(job(), "A/B0#1") == {"A/w0": 64, "A/x0#1": 0, "A/g0#1": 0}
    assert dataflow(job(), unit("A/B0#1")).writes == (BlockKey("d", "A", 0, 1),)
    assert read(job(), "A/U0#1") == {"A/w0": 192, "A/d0#1": 64}
    assert dataflow(job(), unit("A/U0#1")).consumes == (BlockKey("d", "A", 0, 1),)


def test_a_backward_adds_to_the_gradients_of_the_mini_batch_before():
    assert "A/d0#0" in read(job(accumulate=2), "A/B0#1")
    assert "A/d0#1" not in read(job(accumulate=2), "A/B0#2")
    assert neediest_unit(job(accumulate=2), 0) == unit("A/B0#1")
    places = [key for key in passing_keys(job(accumulate=2)) if key.kind == "d"]
    assert places == [BlockKey("d", "A", shard, n) for shard in (0, 1) for n in (0, 1)]


def test_the_last_version_of_a_state_is_made_by_the_last_step_or_a_later_forward():
    counted = job(accumulate=2, minibatches=5)
    assert [n for n in (1, 3) if is_last_update(counted, ShardUnit("A", Phase.UPDATE, 0, n))] == [3]
    moving = job(2, 5, Shard(1.0, 1.0, parameter_bytes=64, forward_updates=True))
    assert updates_state(moving, unit("A/F0#4"))
    assert not updates_state(moving, unit("A/B0#4"))
    assert is_last_update(moving, unit("A/F0#4"))
    assert is_last_update(moving, unit("A/L1#4"))
    assert not is_last_update(moving, unit("A/U0#3"))


def test_a_forward_that_changes_state_needs_all_of_it():
    moving = job(shard=Shard(1.0, 1.0, parameter_bytes=64, optimizer_bytes=128, forward_updates=True))
    assert read(moving, "A/F0#0")["A/w0"] == 192


def test_progress_counts_mini_batches_with_and_without_a_step():
    started = job(accumulate=2)
    templates = Templates.of_job(started)
    progress = JobProgress(0, started, templates, [started.unit_s(*node) for node in templates.with_step.nodes])
    # F0 1, L1 2 with its backward, B0 2 with recomputation, and every other time U0 and U1 of 0.5 each
    assert (progress.minibatch_s, progress.minibatch_left_s, progress.remaining_s) == (5.5, 5.0, 3 * 5.5 + 5.0)
    done = []
    for sequence in range(started.num_units):
        (front,) = progress.front()
        progress.issue(front, 0, sequence)
        progress.finish(front, 1.0)
        done.append((str(front), progress.minibatches_done))
    assert done[2:5] == [("A/B0#0", 1), ("A/F0#1", 1), ("A/L1#1", 1)]
    assert done[7] == ("A/U1#1", 2)
    assert progress.finished


def test_an_update_takes_its_time():
    # F0 1, L1 2, B0 2, U0 0.5, U1 0.5, twice
    timeline = simulate(Workload((job(minibatches=2),)), Cluster((Device(1 << 20),)), "fifo", effects="theory")
    assert timeline.makespan_s == 2 * 6.0


def test_fields_of_update_units_without_them_are_refused():
    with pytest.raises(WorkloadError, match="that takes update_units"):
        TrainingJob("A", (Shard(1.0, 1.0),), 1, accumulate=2)
    with pytest.raises(WorkloadError, match="states update_s or gradient_bytes"):
        TrainingJob("A", (SHARD,), 1)
