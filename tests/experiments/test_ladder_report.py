"""`hydrasim compare --effects all`: a table, a picture, and who overtakes whom."""

import json
import shlex

import pytest
from typer.testing import CliRunner

from experiments.cli import app
from hydrasim.mechanism import EFFECTS
from tests.experiments.worlds import write_world

FIG6 = "compare --preset paper-fig6 --policies sharded-lrtf,fifo,random --effects all"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    write_world(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(command: str):
    return CliRunner().invoke(app, shlex.split(command))


def test_every_rung_is_a_column_and_every_step_a_line(folder):
    result = run(f"{FIG6} --chart ranks.png")
    assert result.exit_code == 0, result.stderr
    assert all(effects in result.stdout for effects in EFFECTS)
    assert "6.00 s (1)" in result.stdout
    assert "theory to transfers (Kendall's tau" in result.stdout
    assert (folder / "ranks.png").stat().st_size > 0


def test_json_holds_every_standing():
    result = run(f"{FIG6} --json")
    fields = json.loads(result.stdout)
    assert len(fields["rows"]) == 3 * len(EFFECTS)
    assert {row["makespan_s"] for row in fields["rows"] if row["policy"] == "sharded-lrtf"} == {6.0}
    assert list(fields["kendall_tau"]) == [f"{a} to {b}" for a, b in zip(EFFECTS, EFFECTS[1:], strict=False)]


def test_who_cannot_run_is_said_once():
    result = run("compare workload.yaml --devices 1 --memory 64 --policies fifo --effects all")
    assert result.exit_code == 0
    assert result.stderr.count("fifo: shard") == 1


def test_only_compare_takes_every_rung():
    result = run("simulate --preset paper-fig6 --effects all")
    assert result.exit_code == 2
    assert "--effects all goes with compare" in result.stderr


def test_a_chart_needs_every_rung():
    result = run("compare --preset paper-fig6 --chart ranks.png")
    assert result.exit_code == 2
    assert "it goes with --effects all" in result.stderr


def test_a_rung_whose_costs_nobody_states_says_so():
    result = run("compare --preset paper-fig6 --policies sharded-lrtf,fifo --systems gpipe --effects all")
    assert (
        "contention to overheads (Kendall's tau 1.00): nothing changes: no cost of this rung is stated" in result.stdout
    )
    assert "gpipe" in result.stdout
