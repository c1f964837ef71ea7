"""Fig. 6 executed, in miniature: the three plans run, and ratios are to SHARP."""

from __future__ import annotations

from experiments.fig6 import POLICIES, equal_jobs, run


def test_the_models_are_equal_and_cut_in_two():
    jobs = equal_jobs(2)
    assert [job.name for job in jobs] == ["A", "B", "C"]
    assert {job.cuts for job in jobs} == {(3,)}
    assert len({sum(p.numel() for p in job.module.parameters()) for job in jobs}) == 1


def test_every_policy_is_predicted_and_measured():
    found = run(minibatches=2, repeats=1)
    assert set(found["rows"]) == set(POLICIES)
    simulated = {policy: row["simulated_ratio"] for policy, row in found["rows"].items()}
    assert simulated["sharded-lrtf"] == 1.0  # what the others come to is up to the machine; the theory is tested
    assert all(ratio > 0 for ratio in simulated.values())
    assert all(len(row["measured_s"]) == 1 for row in found["rows"].values())
