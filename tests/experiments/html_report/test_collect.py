"""A folder of results is shown as far as it goes; what cannot be read is said and costs nothing else."""

import json
from dataclasses import replace
from datetime import datetime, timezone

import pytest

from experiments.html_report import collect as module
from experiments.html_report.collect import Report, collect, own_comparison, own_run
from experiments.html_report.page import Origin, page
from hydrasim import Cluster, Device, Timeline
from hydrasim.errors import HydraError
from hydrasim.profile import Profile
from tests.experiments.html_report.worlds import PNG, comparison, timeline, write_figure, write_results
from tests.experiments.worlds import write_world


def collected(folder) -> Report:
    report = Report()
    collect(folder, report)
    return report


@pytest.fixture
def results(tmp_path):
    write_results(tmp_path / "results")
    return tmp_path / "results"


def test_everything_that_is_there_is_shown(results):
    report = collected(results)
    assert report.problems == []
    assert [run.title for run in report.runs] == ["Demo, best plan: fifo", "Validation, case: fifo"]
    assert [[name for name, _ in run.timelines] for run in report.runs] == [["simulated", "emulated"]] * 2
    assert [c.title for c in report.comparisons] == ["The demo's 2 jobs on 1 devices"]
    assert report.fidelity.num_plans == 3
    assert [(e.folder, e.label) for e in report.evidence] == [("engine", "measured")]


def test_the_plan_that_was_predicted_worst_is_shown_by_its_middle_repeat(results):
    # Repeats of 6, 5 and 7 s: the first is in the middle, and it is the only one written.
    assert collected(results).runs[1].about == (
        "The prediction that was farthest off: -12.5 %. Of its repeats, the one in the middle."
    )


def test_figures_come_in_the_order_of_their_numbers(results):
    figures = collected(results).figures
    assert [figure.run.title for figure in figures] == ["Training end to end", "Scheduler study"]
    first = figures[0]
    assert (first.png, first.num_rows, first.run.note) == (PNG, 2, "We charge copies.")
    assert first.columns == ("system", "ratio", "error_fraction", "label")
    assert first.rows[1] == ("ddp", "12", "", "quoted")


def test_an_empty_folder_is_an_empty_report(tmp_path):
    assert collected(tmp_path).is_empty


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(HydraError, match=r"there is no folder .*nowhere; .*--timeline"):
        collect(tmp_path / "nowhere", Report())


@pytest.mark.parametrize(
    ("file", "content", "problem"),
    [
        ("demo/summary.json", b"{", "is no JSON"),
        ("demo/measured-best.jsonl", b"", "is empty"),
        ("demo/profile.json", b"[]", "profile.json"),
        ("validation/summary.json", b"{}", "labels: Field required"),
        ("fig8/run.json", b'{"name": "fig8"}', "title: Field required"),
        ("fig8/data.csv", b"\xff", "cannot read"),
        ("fig8/data.csv", b'"' + 200_000 * b"x", "is no table"),
        ("fig8/figure.png", b"<svg>", "is no PNG"),
    ],
)
def test_a_damaged_file_costs_nothing_else(results, file, content, problem):
    (results / file).write_bytes(content)
    report = collected(results)
    (said,) = report.problems
    assert problem in said
    assert file in said
    assert report.figures
    assert report.runs
    assert report.fidelity or report.demo


@pytest.mark.parametrize(
    ("file", "field", "value", "problem"),
    [
        ("demo", "policies", {}, "policies: Dictionary should have at least 1 item"),
        ("demo", "lower_bound_s", 1e-308, "lower_bound_s: Input should be greater than"),
        ("demo", "measured_makespan_s", float("nan"), "measured_makespan_s"),
        ("validation", "median_error_fraction", 1e308, "median_error_fraction: Input should be less than"),
    ],
)
def test_numbers_that_cannot_be_shown_cost_nothing_else(results, file, field, value, problem):
    path = results / file / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))
    report = collected(results)
    assert any(problem in said for said in report.problems)
    assert report.figures
    assert "<html" in page(report, Origin("hydrasim report", datetime(2026, 1, 2, tzinfo=timezone.utc)))


def test_a_figure_without_picture_or_data_still_says_how_it_is_made(tmp_path):
    write_figure(tmp_path / "fig6")
    (tmp_path / "fig6" / "data.csv").unlink()
    (tmp_path / "fig6" / "figure.png").unlink()
    report = collected(tmp_path)
    (figure,) = report.figures
    assert (figure.png, figure.rows, figure.run.command) == (None, (), "hydrasim experiment fig6")
    assert "figure.png: No such file" in report.problems[0]


def test_long_tables_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_ROWS", 1)
    write_figure(tmp_path / "fig6")
    (figure,) = collected(tmp_path).figures
    assert (len(figure.rows), figure.num_rows) == (1, 2)


def test_own_timelines_stand_in_the_order_given(tmp_path):
    for name, label in (("a.jsonl", "simulated"), ("b.parquet", "measured")):
        timeline(label).write(tmp_path / name)
    run = own_run([tmp_path / "b.parquet", tmp_path / "a.jsonl"])
    assert run.title == "b.parquet above a.jsonl"
    assert [name for name, _ in run.timelines] == ["b.parquet", "a.jsonl"]
    assert run.arena_bytes is None


def test_a_profile_says_how_large_the_arenas_were(tmp_path):
    write_world(tmp_path)
    timeline().write(tmp_path / "a.jsonl")
    paths = [tmp_path / "a.jsonl"], tmp_path / "profile.json"
    profile = Profile.read(tmp_path / "profile.json")
    with pytest.raises(HydraError, match="knows 0 devices of 1; give the profile of these runs"):
        own_run(*paths)  # it was measured, but not said on what
    replace(profile, cluster=Cluster.of(1, Device(8192 + 63))).write(tmp_path / "profile.json")
    assert profile.workload.working_bytes == 0
    assert own_run(*paths).arena_bytes == (8192,)


@pytest.mark.parametrize(
    ("bad", "message"),
    [(Timeline((), {"num_devices": 1}), "holds no span that took time"), (timeline(num_devices=65), "at most 64")],
)
def test_timelines_that_cannot_be_shown_are_refused(tmp_path, bad, message):
    bad.write(tmp_path / "bad.jsonl")
    with pytest.raises(HydraError, match=message):
        own_run([tmp_path / "bad.jsonl"])


def test_an_own_comparison_is_named_by_its_file(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(comparison()))
    assert own_comparison(tmp_path / "mine.json").title == "mine.json"
