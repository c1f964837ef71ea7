"""The table of policies against the best plan: instances, cache, ratios, picture."""

import json
from pathlib import Path

import pandas as pd
import pytest

from experiments.experiment import read_frame
from experiments.figures import note, optimum
from experiments.paper.instances import instance, instances
from hydrasim.errors import HydraError
from hydrasim.policies import policies

COLUMNS = [
    "instance", "kind", "transfers", "num_jobs", "num_devices", "num_units", "solver", "status", "optimum_s", "bound_s",
    "gap_fraction", "policy", "makespan_s", "against", "ratio", "ratio_to_plan", "label",
]  # fmt: skip


@pytest.fixture
def solved(tmp_path) -> Path:
    """Return a copy of the committed answers, which a test may change."""
    copy = tmp_path / "optimum" / "solved.json"
    copy.parent.mkdir()
    copy.write_text(optimum.SOLVED.read_text())
    return copy


def test_the_table_has_every_policy_on_every_instance(solved):
    frame = optimum.run(smoke=True, solved=solved)
    assert list(frame.columns) == COLUMNS
    assert len(frame) == 2 * optimum.NUM_SMOKE * len(policies())
    assert set(frame["label"]) == {"simulated"}
    assert (frame["ratio"] >= 1 - 1e-9).all()
    assert (frame["bound_s"] <= frame["optimum_s"]).all()
    proven = frame["status"] == "OPTIMAL"
    assert (frame["against"][proven] == "optimum").all()
    assert (frame["against"][~proven] == "bound").all()


def test_a_kept_bound_above_a_makespan_is_our_mistake(solved):
    item, known = instance(0, transfers=False), json.loads(solved.read_text())
    known[item.digest]["bound_s"] = 1e3
    solved.write_text(json.dumps(known))
    with pytest.raises(HydraError, match=r"the bound 'solver' says .* less than 1000.0 s, yet .* this is a bug"):
        optimum.run(smoke=True, solved=solved)


def made_up(status: str, transfers: bool, makespan_s: float) -> dict[str, object]:
    return {
        "policy": "fifo", "transfers": transfers, "status": status, "ratio_to_plan": makespan_s / 4.0,
    }  # fmt: skip


def test_the_summary_counts_what_is_not_proven_too():
    worlds = [("OPTIMAL", False, 5.0), ("FEASIBLE", False, 6.0), ("FEASIBLE", False, 8.0), ("OPTIMAL", True, 4.0)]
    frame = pd.DataFrame([made_up(*world) for world in worlds])
    without, with_them = optimum.summary(frame).to_dict("records")
    assert without == {
        "policy": "fifo", "transfers": False, "num_instances": 3, "median": 1.5, "worst": 2.0, "num_proven": 1,
        "proven_median": 1.25, "proven_worst": 1.25,
    }  # fmt: skip
    assert (with_them["num_instances"], with_them["worst"]) == (1, 1.0)
    proven = "1 of 3 optima without transfers and 1 of 1 optima with transfers are proven"
    assert note(optimum, frame).startswith(proven)


def test_two_runs_give_the_same_table_from_the_committed_answers(solved):
    before = solved.read_text()
    assert optimum.run(smoke=True, solved=solved).to_csv() == optimum.run(smoke=True, solved=solved).to_csv()
    assert solved.read_text() == before


def test_the_committed_answers_hold_every_instance():
    known = json.loads(optimum.SOLVED.read_text())
    items = instances()
    assert {item.digest for item in items} == set(known)
    assert all(known[item.digest]["instance"] == item.name for item in items)


def test_what_is_missing_is_solved_and_comes_to_the_same(solved, monkeypatch):
    monkeypatch.setattr(optimum, "NUM_SMOKE", 1)
    committed = json.loads(solved.read_text())
    solved.unlink()
    optimum.run(smoke=True, solved=solved)
    found = json.loads(solved.read_text())
    assert len(found) == 2
    assert all(committed[digest] == answer for digest, answer in found.items())


def test_fresh_solves_again_what_is_known(solved, monkeypatch):
    monkeypatch.setattr(optimum, "NUM_SMOKE", 1)
    item = instance(0, transfers=False)
    known = json.loads(solved.read_text())
    committed = dict(known[item.digest])
    known[item.digest]["bound_s"] = 0.0
    solved.write_text(json.dumps(known))
    optimum.run(smoke=True, fresh=True, solved=solved)
    assert json.loads(solved.read_text()) == known | {item.digest: committed}


def test_the_picture_shows_where_lrtf_loses_most(solved):
    frame = optimum.run(smoke=True, solved=solved)
    row = optimum.worst(frame)
    mine = frame[frame["policy"] == "sharded-lrtf"]
    assert row["policy"] == "sharded-lrtf"
    assert row["ratio_to_plan"] == (mine["makespan_s"] / mine["optimum_s"]).max() > 1
    figure = optimum.draw(frame, solved)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert any(title.startswith("with transfers: ") for title in titles)


def test_drawing_without_the_answer_to_draw_is_told(solved):
    frame = optimum.run(smoke=True, solved=solved)
    solved.write_text("{}")
    with pytest.raises(HydraError, match="holds no answer for transfers-"):
        optimum.draw(frame, solved)


def test_the_published_note_is_that_of_the_published_table():
    folder = optimum.SOLVED.parent
    assert json.loads((folder / "run.json").read_text())["note"] == note(optimum, read_frame(optimum, folder))
