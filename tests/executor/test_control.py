"""A run is told from outside to have a job rest, go on or end; what is trained is the same."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from executor import Control, CpuDevice, DevicePool, MinibatchDone, prepare, train
from executor.errors import ExecutionError
from hydrasim.errors import PlanError
from hydrasim.planning import make_plan
from tests.executor.worlds import differences, expected, small_job

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def pool():
    with DevicePool([CpuDevice(160_000)] * 2) as pool:
        yield pool


def test_a_job_rests_while_another_trains_and_then_goes_on(pool):
    jobs, control = [small_job("A", 6), small_job("B", 6)], Control()
    answers = [expected(job) for job in jobs]
    order: list[str] = []

    def rest(done: MinibatchDone) -> None:
        order.append(done.job)
        if order == ["A"]:
            control.pause("A")
            control.resume("B")
        if done.job == "B" and done.number == done.num_minibatches - 1:
            control.resume("A")

    control.pause("B")  # or it might be done before A's first mini-batch, and nobody would resume A
    result = train(jobs, pool.devices, pool=pool, policy="round-robin", callbacks=[rest], control=control)
    assert [d for job, answer in zip(jobs, answers, strict=True) for d in differences(job, result, answer)] == []
    last_b = max(index for index, name in enumerate(order) if name == "B")
    assert 1 <= order[:last_b].count("A") <= 2  # a second one may have been under way
    assert order[last_b + 1 :].count("A") >= 4


def test_what_is_asked_for_before_the_run_happens_at_its_beginning(pool):
    control, order = Control(), []

    def note(done: MinibatchDone) -> None:
        order.append(done.job)
        if done.job == "B" and done.number == 1:
            control.resume("A")

    control.pause("A")
    train([small_job("A"), small_job("B")], pool.devices, pool=pool, callbacks=[note], control=control)
    assert order[:2] == ["B", "B"]


def test_another_thread_may_ask_and_a_run_of_resting_jobs_waits(pool):
    control, results = Control(), []
    control.pause("A")
    options = {"pool": pool, "control": control}
    thread = threading.Thread(target=lambda: results.append(train([small_job("A")], pool.devices, **options)))
    thread.start()
    thread.join(1.0)
    assert thread.is_alive()
    control.resume("A")
    thread.join(60.0)
    assert results[0].jobs["A"].status == "finished"


def test_a_resting_job_is_stopped(pool):
    control = Control()

    def stop(done: MinibatchDone) -> None:
        if done.job == "A":
            control.pause("A")
            control.stop("A")

    result = train([small_job("A", 9), small_job("B", 3)], pool.devices, pool=pool, callbacks=[stop], control=control)
    assert (result.jobs["A"].status, result.jobs["B"].status) == ("stopped", "finished")
    assert len(result.jobs["A"].losses) < 9


def test_who_is_not_there_cannot_be_asked_for(pool):
    early = Control()
    early.pause("C")
    with pytest.raises(ExecutionError, match="no job of the run is named 'C'; there are A"):
        train([small_job("A")], [CpuDevice(160_000)], control=early)
    control, found = Control(), []

    def ask(done: MinibatchDone) -> None:
        with pytest.raises(ExecutionError, match="no job of the run is named 'C'"):
            control.stop("C")
        with (
            pytest.raises(ExecutionError, match="in use by a run"),
            control.listening(SimpleNamespace(admitted={"A": None})),
        ):
            pass
        found.append(done)

    train([small_job("A")], pool.devices, pool=pool, callbacks=[ask], control=control)
    assert len(found) == 2
    train([small_job("A")], pool.devices, pool=pool, control=control)  # free again


def test_a_plan_is_not_to_be_controlled(pool):
    prepared = prepare([small_job("A")], pool.devices)
    plan, _ = make_plan(prepared.workload, prepared.cluster, "fifo")
    with pytest.raises(PlanError, match="nothing to control"):
        train(prepared, plan=plan, control=Control())
