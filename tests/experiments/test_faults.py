"""The campaign kills what it says, sees what went wrong, and tells it."""

from __future__ import annotations

import json

import pytest

from executor.host_store import HostStore
from experiments.faults import Campaign, Trial, in_place
from experiments.faults_report import summary, write_report

UNDISTURBED = {"fifo": 2.0, "random": 3.0}


def trials() -> list[Trial]:
    return [
        Trial(0, "fifo", "worker 0", 0.5, True, ("compute", "commit"), 2.5),
        Trial(1, "random", "worker 1", 1.0, True, (), 3.25, ("A: weight",)),
        Trial(2, "fifo", "A's loader", 1.0, True, ("fetch",), error="gone"),
        Trial(3, "fifo", "worker 0", 1.9, False, (), 1.8, leaked=2),
        Trial(4, "fifo", "worker 0", 0.1, True, ("load",), hung=True),
    ]


def test_figures_follow_from_the_trials():
    found = summary(trials(), "faults", UNDISTURBED, in_place=False)
    assert (found["num_runs"], found["num_struck"]) == (5, 4)
    assert found["num_faults"] == {"load": 1, "compute": 1, "store": 0, "commit": 1, "fetch": 1, "idle": 1}
    assert [found[f"num_{what}"] for what in ("wrong", "hung", "failed", "leaked")] == [1, 1, 1, 1]
    assert found["longer_s"] == {"median": 0.375, "most": 0.5}
    assert found["errors"] == ["gone"]


@pytest.mark.parametrize("torn", [False, True])
def test_the_report_has_all_files_and_says_what_it_is(torn, tmp_path):
    write_report(trials(), tmp_path, "faults", UNDISTURBED, 12.0, in_place=torn)
    assert {path.name for path in tmp_path.iterdir()} == {"summary.json", "trials.csv", "report.md", "figure.png"}
    assert json.loads((tmp_path / "summary.json").read_text())["in_place"] is torn
    assert ("this is how it fails" in (tmp_path / "report.md").read_text()) is torn
    assert (
        (tmp_path / "trials.csv").read_text().splitlines()[1].startswith("0,fifo,worker 0,0.5000,True,compute commit")
    )


def test_two_kills_change_nothing():
    campaign = Campaign(seed=4)
    try:
        found = [campaign.run(number) for number in range(2)]
    finally:
        campaign.pool.close()
    assert all(trial.makespan_s > 0 for trial in found)
    assert [(trial.wrong, trial.error, trial.hung, trial.leaked) for trial in found] == [((), "", False, 0)] * 2
    assert any(trial.struck for trial in found)


def test_states_are_stored_in_place_only_where_that_is_asked_for():
    own = HostStore.spare, HostStore.commit, HostStore.give_back
    with in_place():
        assert HostStore.spare is not own[0]
    assert (HostStore.spare, HostStore.commit, HostStore.give_back) == own
