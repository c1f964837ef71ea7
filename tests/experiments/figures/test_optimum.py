"""The table of policies against the best plan: instances, cache, ratios, picture."""

import json
from pathlib import Path

import pytest

from experiments.figures import optimum
from hydrasim.policies import policies

COLUMNS = [
    "instance", "kind", "transfers", "num_jobs", "num_devices", "num_units", "solver", "status", "optimum_s", "bound_s",
    "gap_fraction", "policy", "makespan_s", "against", "ratio", "label",
]  # fmt: skip


@pytest.fixture
def solved(tmp_path) -> Path:
    """Return a copy of the committed answers, which a test may change."""
    copy = tmp_path / "optimum" / "solved.json"
    copy.parent.mkdir()
    copy.write_text(optimum.SOLVED.read_text())
    return copy


def test_instances_are_small_and_of_both_kinds():
    for transfers in (False, True):
        items = [optimum.instance(seed, transfers=transfers) for seed in range(optimum.NUM_WORLDS)]
        assert {item.kind for item in items} == {"homogeneous", "heterogeneous"}
        assert all(3 <= len(item.workload.jobs) <= 8 and 2 <= len(item.cluster.devices) <= 4 for item in items)
        assert all(1 <= len(job.shards) <= 4 for item in items for job in item.workload.jobs)
        assert max(item.workload.num_units for item in items) <= (14 if transfers else 40)
        assert len({item.digest for item in items}) == len(items) >= 50


def test_the_same_seed_draws_the_same_instance():
    assert optimum.instance(3, transfers=True) == optimum.instance(3, transfers=True)


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


def test_two_runs_give_the_same_table_from_the_committed_answers(solved):
    before = solved.read_text()
    assert optimum.run(smoke=True, solved=solved).to_csv() == optimum.run(smoke=True, solved=solved).to_csv()
    assert solved.read_text() == before


def test_the_committed_answers_hold_every_instance():
    known = json.loads(optimum.SOLVED.read_text())
    items = [optimum.instance(seed, transfers=t) for t in (False, True) for seed in range(optimum.NUM_WORLDS)]
    assert {item.digest for item in items} == set(known)
    assert all(known[item.digest]["instance"] == item.name for item in items)


def test_what_is_missing_is_solved_and_comes_to_the_same(solved, monkeypatch):
    monkeypatch.setattr(optimum, "NUM_SMOKE", 1)
    committed = json.loads(solved.read_text())
    solved.unlink()
    seen: list[None] = []
    optimum.run(smoke=True, solved=solved, on_instance=lambda: seen.append(None))
    found = json.loads(solved.read_text())
    assert len(seen) == len(found) == 2
    assert all(committed[digest] == answer for digest, answer in found.items())


def test_fresh_solves_again_what_is_known(solved, monkeypatch):
    monkeypatch.setattr(optimum, "NUM_SMOKE", 1)
    item = optimum.instance(0, transfers=False)
    known = json.loads(solved.read_text())
    committed = dict(known[item.digest])
    known[item.digest]["bound_s"] = 0.0
    solved.write_text(json.dumps(known))
    optimum.run(smoke=True, fresh=True, solved=solved)
    assert json.loads(solved.read_text())[item.digest] == committed


def test_the_picture_shows_where_lrtf_loses_most(solved):
    frame = optimum.run(smoke=True, solved=solved)
    row = optimum.worst(frame)
    mine = frame[frame["policy"] == "sharded-lrtf"]
    assert row["policy"] == "sharded-lrtf"
    assert row["makespan_s"] / row["optimum_s"] == (mine["makespan_s"] / mine["optimum_s"]).max() > 1
    figure = optimum.draw(frame, solved)
    titles = [axes.get_title(loc="left") for axes in figure.axes]
    assert any(title.startswith("with transfers: ") for title in titles)
