"""Units, shards, jobs and workloads."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrasim import Phase, Shard, ShardUnit, TrainingJob, Workload
from hydrasim.errors import HydraError, WorkloadError
from hydrasim.workload import check_size
from tests.worlds import fig6, job, workload


@given(
    st.from_regex(r"[A-Za-z0-9._-]+", fullmatch=True),
    st.sampled_from(Phase),
    st.integers(0, 999),
    st.integers(0, 10**9),
)
def test_a_unit_survives_its_text_form(name: str, phase: Phase, shard: int, minibatch: int):
    unit = ShardUnit(name, phase, shard, minibatch)
    assert ShardUnit.parse(str(unit)) == unit


def test_the_text_form_of_a_unit_is_the_documented_one():
    assert str(ShardUnit("A", Phase.FORWARD, 0, 17)) == "A/F0#17"


@pytest.mark.parametrize(
    "text", ["", "A", "A/F0", "A/X0#1", "A/F-1#0", "A/F0#-1", "A/F0#1 ", "A/F0#1\n", "A B/F0#1", "/F0#1"]
)
def test_what_is_no_unit_is_refused(text: str):
    with pytest.raises(WorkloadError, match="is not a unit; write it as job/F0#17"):
        ShardUnit.parse(text)


def test_a_shard_knows_its_state():
    assert Shard(1.0, 2.0, parameter_bytes=3, optimizer_bytes=4).state_bytes == 7


@pytest.mark.parametrize("value", [-1.0, math.inf, math.nan])
@pytest.mark.parametrize("name", ["forward_s", "backward_s", "parameter_bytes", "working_bytes"])
def test_a_shard_refuses_impossible_numbers(name: str, value: float):
    with pytest.raises(WorkloadError, match=f"shard: {name} is .*; it must be finite and not negative"):
        replace(Shard(1.0, 1.0), **{name: value})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "a b"}, "job name 'a b': use letters"),
        ({"name": ""}, "job name ''"),
        ({"shards": ()}, "job 'A' has no shards"),
        ({"minibatches": 0}, "minibatches is 0; it must be at least 1"),
        ({"epochs": 0}, "epochs is 0; it must be at least 1"),
        ({"input_bytes": -1}, "input_bytes is -1"),
        ({"fetch_s": math.nan}, "fetch_s is nan"),
    ],
)
def test_a_job_refuses_impossible_fields(fields: dict[str, object], message: str):
    with pytest.raises(WorkloadError, match=message):
        replace(job("A"), **fields)


@pytest.mark.parametrize(("shards", "fused", "a_minibatch"), [(1, True, 1), (1, False, 2), (3, True, 5), (3, False, 6)])
def test_a_job_counts_its_units(shards: int, fused: bool, a_minibatch: int):
    counted = job(shards=shards, minibatches=3, epochs=2, fused=fused)
    assert counted.units_per_minibatch == a_minibatch
    assert (counted.num_minibatches, counted.num_units) == (6, 6 * a_minibatch)


@pytest.mark.parametrize(
    ("mode", "phase", "seconds"),
    [
        ("recompute", Phase.FORWARD, 1.0),
        ("recompute", Phase.BACKWARD, 3.0),
        ("recompute", Phase.LOSS, 3.0),
        ("keep", Phase.FORWARD, 1.0),
        ("keep", Phase.BACKWARD, 2.0),
        ("keep", Phase.LOSS, 3.0),
    ],
)
def test_a_backward_pass_recomputes_its_forward_unless_activations_are_kept(mode: str, phase: Phase, seconds: float):
    assert TrainingJob("A", (Shard(1.0, 2.0),), 1, activation_mode=mode).unit_s(phase, 0) == seconds


def test_a_workload_needs_jobs_with_names_of_their_own():
    with pytest.raises(WorkloadError, match="the workload has no jobs"):
        Workload(())
    with pytest.raises(WorkloadError, match="two jobs are named 'A'; names must differ"):
        workload(job("A"), job("B"), job("A"))


def test_a_workload_finds_its_jobs():
    assert fig6().job("B").name == "B"
    assert fig6().num_units == 12
    with pytest.raises(WorkloadError, match="no job is named 'D'; there are A, B, C"):
        fig6().job("D")


def test_the_working_memory_of_a_workload_is_its_hungriest_shards():
    small, large = Shard(1.0, 1.0, working_bytes=10), Shard(1.0, 1.0, working_bytes=30)
    assert workload(TrainingJob("A", (small,), 1), TrainingJob("B", (small, large), 1)).working_bytes == 30


def test_the_digest_changes_with_what_a_plan_depends_on():
    first = fig6()
    assert first.digest == fig6().digest
    others = [
        workload(*reversed(first.jobs)),
        workload(*first.jobs[:2], replace(first.jobs[2], epochs=2)),
        workload(*first.jobs[:2], replace(first.jobs[2], shards=(Shard(1.0, 1.0), Shard(1.0, 1.0, 64)))),
    ]
    assert len({first.digest, *(other.digest for other in others)}) == 4


def test_the_digest_leaves_seconds_out_so_that_a_plan_outlives_a_new_profile():
    first = fig6()
    slower = tuple(replace(job, shards=(Shard(2.0, 3.0),) * 2, fetch_s=1.0) for job in first.jobs)
    assert Workload(slower).digest == first.digest


def test_workloads_are_immutable():
    with pytest.raises(FrozenInstanceError):
        job().minibatches = 2  # type: ignore[misc]


def test_every_error_of_ours_is_a_hydra_error_and_a_builtin_one():
    assert issubclass(WorkloadError, HydraError)
    assert issubclass(WorkloadError, ValueError)


@pytest.mark.parametrize("text", ["A/F\u0663#0", f"A/F0#{'9' * 5000}", "A/F0#0\n"])
def test_a_unit_is_written_in_plain_digits(text: str):
    with pytest.raises(WorkloadError, match="is not a unit"):
        ShardUnit.parse(text)


def test_two_jobs_of_one_name_among_many_are_found():
    jobs = [job(f"j{i}") for i in range(20_000)]
    with pytest.raises(WorkloadError, match="two jobs are named 'j7'"):
        Workload((*jobs, job("j7")))


def test_a_workload_that_can_be_simulated_passes():
    check_size(fig6())
