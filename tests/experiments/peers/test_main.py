"""The command."""

from __future__ import annotations

import json

import pytest
import typer
from typer.testing import CliRunner

from experiments.peers import workloads
from experiments.peers.__main__ import main
from tests.experiments.peers.worlds import TINY


@pytest.fixture
def command():
    app = typer.Typer()
    app.command()(main)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--workload", "V"), "no workload is named 'V'"),
        (("--optimizer", "adam"), "no optimizer is named 'adam'; there are adamw, adamw-fused, sgd, and both."),
        (("--peers", "gpipe,megatron"), "no peer is named 'megatron'; there are 1f1b, ddp,"),
        (("--peers", "ours"), "--peers names ours, which is always there"),
        (("--policy", "best"), "best"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(command, arguments, message, tmp_path):
    found = command(*arguments, "-o", str(tmp_path / "out"))
    assert found.exit_code == 2
    assert message in found.output
    assert not (tmp_path / "out").exists()


def test_one_command_races_checks_and_reports(command, tmp_path, monkeypatch):
    monkeypatch.setitem(workloads.WORKLOADS, "tiny", TINY)
    found = command("--workload", "tiny", "--optimizer", "sgd", "--pairs", "1", "-o", str(tmp_path))
    assert found.exit_code == 0, found.output
    summary = json.loads((tmp_path / "summary.json").read_text())
    ratio = summary["ratio_to"]["ideal"]["sgd"]["tiny"]
    assert ratio["num_pairs"] == 1
    assert ratio["value"] > 0
    assert ratio["largest_loss_difference"] == 0.0
    assert summary["races"][0]["settings"]["loss_tolerance"] == 1e-5
    assert "tiny sgd: round 0: ours" in found.output
    assert (tmp_path / "report.md").exists()
    assert (tmp_path / "figure.png").exists()
