"""`hydrasim report` as a user meets it."""

import json

import pytest
from typer.testing import CliRunner

from experiments.cli import app
from tests.experiments.html_report.worlds import comparison, timeline, write_results


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    timeline().write(tmp_path / "simulated.jsonl")
    timeline("measured", 1.0).write(tmp_path / "measured.jsonl")
    (tmp_path / "comparison.json").write_text(json.dumps(comparison()))
    return tmp_path


def run(*arguments: str):
    return CliRunner().invoke(app, ["report", *arguments])


def test_the_folder_of_results_is_shown_by_default(folder):
    write_results(folder / "results")
    result = run()
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("report.html: ")
    assert "runs: 2, comparisons: 1, figures: 2" in result.stdout
    assert "Training end to end" in (folder / "report.html").read_text()


def test_own_files_are_shown_alone_unless_results_are_named_too(folder):
    write_results(folder / "results")
    own = ("--timeline", "simulated.jsonl", "--timeline", "measured.jsonl", "--comparison", "comparison.json")
    assert "runs: 1, comparisons: 1, figures: 0" in run(*own, "-o", "own.html").stdout
    assert "runs: 3, comparisons: 2, figures: 2" in run("results", *own).stdout
    assert "simulated.jsonl above measured.jsonl" in (folder / "own.html").read_text()


def test_what_is_left_out_is_said(folder):
    write_results(folder / "results")
    (folder / "results" / "fig8" / "figure.png").write_bytes(b"")
    result = run()
    assert result.exit_code == 0
    assert "left out: results/fig8/figure.png is no PNG" in result.stderr
    assert "results/fig8/figure.png is no PNG" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is no folder results; name the one that holds results, or give --timeline."),
        ((".",), ". holds nothing that the page can show."),
        (("--timeline", "nothing.jsonl"), "cannot read nothing.jsonl"),
        (("--timeline", "comparison.json"), "comparison.json, line 1"),
        (("--comparison", "simulated.jsonl"), "simulated.jsonl is no JSON"),
        (("--timeline", "simulated.jsonl") * 5, "5 timelines were given; 4 can be shown"),
        (("--comparison", "comparison.json", "--profile", "p.json"), "--profile says how much memory"),
        (("-o", "nowhere/report.html"), "there is no folder nowhere to write report.html into"),
    ],
)
def test_mistakes_cost_a_sentence(folder, arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
    assert "Traceback" not in result.output
    assert not (folder / "report.html").exists()
