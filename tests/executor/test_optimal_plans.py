"""The executor follows a plan that a solver made, and the weights are those of plain training."""

from __future__ import annotations

from executor import prepare, train
from hydrasim.optimum import find_optimum
from tests.executor.worlds import differences, expected, small_job


def test_an_optimal_plan_trains_to_the_same_bits(pools):
    jobs = [small_job("A"), small_job("B"), small_job("C")]
    answers = [expected(job) for job in jobs]
    pool = pools[2]
    prepared = prepare(jobs, pool.devices)
    found = find_optimum(prepared.workload, prepared.cluster, effects="transfers", time_limit_s=0.5)
    result = train(prepared, plan=found.plan, pool=pool)
    assert sum((differences(job, result, answer) for job, answer in zip(jobs, answers, strict=True)), []) == []
    ran = {span.unit: span.device for span in result.timeline.spans if span.kind == "compute"}
    assert ran == {str(unit): device for unit, device in found.plan.device_of.items()}
