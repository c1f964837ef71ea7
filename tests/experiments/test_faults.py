"""The campaign kills what it says, sees what went wrong, and tells it."""

from __future__ import annotations

import json

import pytest

from executor import RunResult
from executor.host_store import HostStore
from experiments.faults import Campaign, Trial, asked_of, in_place
from experiments.faults_report import summary, write_report
from hydrasim.timeline import Span, Timeline

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
    kinds = {kind: count for kind, count in found["num_faults"].items() if count}
    assert kinds == {"load": 1, "compute": 1, "commit": 1, "fetch": 1, "idle": 1}
    assert {"store", "checkpoint", "update"} <= found["num_faults"].keys()
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


def span(number: int, kind: str, job: str, issued_s: float, start_s: float, end_s: float, after=()) -> Span:
    return Span(number, kind, -1, "host", f"{job}/B0#3", start_s, end_s, after=after, issued_s=issued_s)


@pytest.mark.parametrize(
    ("victim", "killed_s", "wanted"),
    [
        ("A's loader", 2.5, ("checkpoint",)),
        ("A's loader", 0.5, ("fetch",)),
        ("A's loader", 1.5, ()),
        ("B's loader", 2.5, ()),
        ("updater", 4.5, ("update",)),
        ("updater", 3.5, ()),
    ],
)
def test_what_a_loader_was_asked_for_is_told_from_what_another_has_done_since(victim, killed_s, wanted):
    spans = (
        span(0, "fetch", "A", 0.0, 0.2, 1.0),
        span(1, "save", "A", 1.8, 2.0, 3.0),
        span(2, "update", "B", 3.0, 4.2, 5.0, after=(3,)),
        span(3, "store", "B", 3.0, 3.1, 4.0),
    )
    result = RunResult({}, Timeline(spans, {"num_devices": 1}), 0)
    assert asked_of(result, victim, killed_s) == wanted


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
