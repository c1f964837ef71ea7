"""`hydrasim optimal` on the command line."""

import shlex

import pytest
from typer.testing import CliRunner

from experiments.cli import app
from hydrasim import Plan
from tests.experiments.worlds import as_json

WAITING = """
version: 1
jobs:
  - {name: A, minibatches: 1, shards: [{forward_s: 0, backward_s: 3, parameter_bytes: 1000000}]}
  - {name: B, minibatches: 1, arrival_s: 1, shards: [{forward_s: 0, backward_s: 4, parameter_bytes: 1000000}]}
  - {name: C, minibatches: 1, shards: [{forward_s: 0, backward_s: 3, parameter_bytes: 1000000}]}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    (tmp_path / "waiting.yaml").write_text(WAITING)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command):
    return CliRunner().invoke(app, shlex.split(f"optimal {command}"))


def json_of(command):
    result = run(f"{command} --json")
    assert result.exit_code == 0, result.stderr
    return as_json(result.stdout)


@pytest.mark.parametrize("solver", ["cp-sat", "milp"])
def test_fig6(solver):
    found = json_of(f"--preset paper-fig6 --solver {solver} --time-limit 10")
    assert [found[key] for key in ("status", "makespan_s", "bound_s", "gap_fraction")] == ["OPTIMAL", 6.0, 6.0, 0.0]
    assert (found["solver"], found["label"], found["effects"]) == (solver, "simulated", "theory")
    assert {row["policy"]: row["ratio"] for row in found["policies"]}["model-parallel"] == 2.0


@pytest.mark.parametrize("solver", ["cp-sat", "milp"])
def test_a_solver_beats_the_best_policy(solver):
    found = json_of(f"waiting.yaml --devices 2 --effects theory --solver {solver}")
    assert (found["status"], found["makespan_s"], found["warm_start_s"]) == ("OPTIMAL", 6.0, 7.0)
    assert found["planned_by"] == solver
    assert found["bounds"][solver] == pytest.approx(6.0, rel=1e-6)
    assert found["model"]["num_pieces"] == 3


def test_the_plan_is_written_and_can_be_followed(folder):
    world = "waiting.yaml --devices 2 --memory 2MB --link 1MB/s"
    found = json_of(f"{world} -o plan.json --gantt plan.png")
    plan = Plan.read(folder / "plan.json")
    assert plan.makespan_s == found["makespan_s"]
    assert all(step.offset is not None for steps in plan.devices for step in steps)
    followed = CliRunner().invoke(app, shlex.split(f"simulate {world} --plan plan.json --json"))
    assert as_json(followed.stdout)["makespan_s"] == found["makespan_s"]
    assert (folder / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_people_read_status_bound_and_gap():
    result = run("waiting.yaml --devices 2 --effects theory")
    assert "cp-sat within 60 s: OPTIMAL, 3 pieces, " in result.stdout
    last = result.stdout.splitlines()[-1]
    assert last.startswith("simulated: OPTIMAL, makespan 6.00 s, bound 6.00 s, gap 0.00 %; ")


def test_no_solver_is_named_where_none_was_needed():
    assert "no solver was needed: the best policy meets a bound" in run("--preset paper-fig6").stdout


@pytest.mark.parametrize(
    ("solver", "limit", "size"),
    [
        ("cp-sat", "cpsat.MAX_INTERVALS", "CP-SAT would get 3 intervals (3 units on 1 kinds of devices)"),
        ("milp", "milp.MAX_CONSTRAINTS", "the program would have 3 pieces, 13 variables and 18 constraints"),
    ],
)
def test_what_is_too_large_for_the_solver_still_has_status_bound_and_gap(solver, limit, size, monkeypatch):
    monkeypatch.setattr(f"hydrasim.optimum.{limit}", 2)
    command = f"waiting.yaml --devices 2 --effects theory --solver {solver}"
    found = json_of(f"{command} -o plan.json")
    assert [found[key] for key in ("status", "makespan_s", "bound_s")] == ["FEASIBLE", 7.0, 6.0]
    assert (found["model"]["status"], found["planned_by"]) == ("REFUSED", found["warm_start"])
    assert found["refused"].startswith(size)
    if solver == "milp":
        assert f"{found['model']['num_variables']} variables and {found['model']['num_constraints']} constr" in size
    lines = run(command).stdout.splitlines()
    assert f"no solver was tried: {found['refused']}" in lines
    assert lines[-1].startswith("simulated: FEASIBLE, makespan 7.00 s, bound 6.00 s, gap 14.29 %; ")


def test_a_solver_that_was_tried_was_not_refused():
    assert json_of("waiting.yaml --devices 2 --effects theory")["refused"] is None


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("waiting.yaml --devices 2 --memory 2MB --solver milp", "the paper's program knows no transfers"),
        ("--preset paper-fig6 --effects noise", "under noise a plan may beat any bound"),
        ("--preset paper-fig6 --solver gurobi", "'gurobi' is not one of the solvers: cp-sat, milp"),
        ("--preset paper-fig6 --solver milp --pieces 41", "Input should be less than or equal to 40"),
    ],
)
def test_what_cannot_be_solved_is_refused_in_words(command, message):
    result = run(command)
    assert result.exit_code == 2
    assert message in result.stderr
