"""`hydrasim experiment` makes, draws again, checks and refuses."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from typer.testing import CliRunner

from experiments import experiment
from experiments.cli import app
from experiments.experiment import check_doubling, describe, draw, make, make_full, read_frame
from experiments.figures import About, figure, figure_names
from hydrasim.errors import HydraError

RESULTS = Path(__file__).parents[2] / "results"


def made_up(measured: bool = False) -> ModuleType:
    """A figure of two points whose ratio depends a little on how long it runs."""
    module = ModuleType("made_up")
    columns = ("wall_s",) if measured else ()
    module.ABOUT = About(
        "Made up", "simulated", keys=("x",), measured_columns=columns, ratios=("ratio", "ratio_keeping")
    )
    calls: list[float] = []

    def run(smoke: bool = False, *, num_minibatches: int = 200, fresh: bool = False) -> pd.DataFrame:
        calls.append(len(calls))
        ratio = 2.0 + (1.0 / num_minibatches if num_minibatches else 0.0)
        rows = [
            {
                "x": x,
                "costs": "ours",
                "ratio": ratio * x,
                "ratio_keeping": (ratio - 1) ** (x - 1),
                "error_fraction": 0.1 * x,
            }
            for x in (1, 2)
        ]
        return pd.DataFrame(rows).assign(wall_s=float(calls[-1]), fresh=fresh, smoke=smoke)

    def picture(frame: pd.DataFrame):
        from experiments.paper.drawing import new_figure

        figure = new_figure()
        figure.axes[0].plot(frame["x"], frame["ratio"])
        figure.axes[0].plot(frame["x"], frame["wall_s"])
        return figure

    module.run, module.draw = run, picture
    return module


def test_a_figure_leaves_its_table_its_picture_and_how_it_came_about(tmp_path):
    module = made_up(measured=True)
    make("made-up", module, tmp_path / "made-up", smoke=True, fresh=True)
    draw(module, tmp_path / "made-up")
    assert sorted(path.name for path in (tmp_path / "made-up").iterdir()) == [
        "data.csv", "figure.png", "measured.csv", "run.json",
    ]  # fmt: skip
    fields = json.loads((tmp_path / "made-up/run.json").read_text())
    assert fields["title"] == "Made up"
    assert fields["command"] == "hydrasim experiment made-up --smoke"
    assert fields["errors"]["ours"]["max_abs_error_fraction"] == 0.2
    frame = read_frame(module, tmp_path / "made-up")
    assert frame["fresh"].all()
    assert frame["smoke"].all()
    assert frame["wall_s"].tolist() == [0.0, 0.0]


def test_a_table_is_told_anew_with_its_picture_and_keeps_how_it_was_made(tmp_path):
    module = made_up(measured=True)
    make("made-up", module, tmp_path)
    before = json.loads((tmp_path / "run.json").read_text())
    module.ABOUT = replace(module.ABOUT, title="Another", note="Of {count}.")
    module.facts = lambda frame: {"count": len(frame)}
    describe(module, tmp_path)
    after = json.loads((tmp_path / "run.json").read_text())
    assert after == before | {"title": "Another", "note": "Of 2."}
    assert list(after) == list(before)


def test_a_table_of_unknown_making_is_told(tmp_path):
    module = made_up(measured=True)
    make("made-up", module, tmp_path)
    for text in ("[]", "{", "{}"):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(HydraError, match="does not say how the table was made"):
            describe(module, tmp_path)


def test_two_runs_give_the_same_bytes_but_for_what_is_measured(tmp_path):
    module = made_up(measured=True)
    for folder in ("one", "two"):
        make("made-up", module, tmp_path / folder)
    read = {name: [(tmp_path / folder / name).read_bytes() for folder in ("one", "two")]
            for name in ("data.csv", "measured.csv")}  # fmt: skip
    assert read["data.csv"][0] == read["data.csv"][1]
    assert read["measured.csv"][0] != read["measured.csv"][1]


def test_doubling_says_how_far_each_ratio_moves_and_full_runs_all(tmp_path):
    module = made_up()
    make("made-up", module, tmp_path)
    said = check_doubling(module, tmp_path)
    moved = pd.read_csv(tmp_path / "doubling.csv").set_index(["what", "x"])["moved_fraction"]
    assert moved["ratio"].tolist() == pytest.approx([2.0025 / 2.005 - 1] * 2)
    assert moved["ratio_keeping"].tolist() == pytest.approx([0, 1.0025 / 1.005 - 1], abs=1e-9)
    assert said == "with twice as many mini-batches no ratio moves by more than 0.25 %, ratio_keeping at 2."
    make_full(module, tmp_path)
    assert pd.read_csv(tmp_path / "full.csv")["ratio"].tolist() == [2.0, 4.0]


def test_the_spread_of_a_ratio_is_no_ratio_of_its_own(tmp_path):
    # ratio_std, of a policy that draws nothing, is 0: half as much again of it is infinitely much
    module = made_up()
    module.ABOUT = replace(module.ABOUT, ratios=("ratio",))
    ran = module.run
    module.run = lambda smoke=False, **options: ran(smoke, **options).assign(ratio_std=0.0)
    make("made-up", module, tmp_path)
    assert check_doubling(module, tmp_path).endswith("0.12 %, ratio at 1.")
    assert set(pd.read_csv(tmp_path / "doubling.csv")["what"]) == {"ratio"}


def test_every_figure_names_ratios_that_its_table_has():
    for name in figure_names():
        table = pd.read_csv(RESULTS / name / "data.csv")
        if "num_minibatches" in inspect.signature(figure(name).run).parameters:
            assert set(figure(name).ABOUT.ratios) <= set(table.columns), name


def test_the_table_can_be_drawn_again_and_a_missing_one_is_told(tmp_path):
    with pytest.raises(HydraError, match="without --draw-only"):
        draw(made_up(), tmp_path)


def test_a_damaged_table_is_told(tmp_path):
    (tmp_path / "data.csv").write_text("a,b\n1,2\n")
    with pytest.raises(HydraError, match="is not this figure's table: it lacks x"):
        draw(made_up(), tmp_path)


def test_figures_are_found_by_being_there_and_say_what_they_are():
    assert "end-to-end" in figure_names()
    for name in figure_names():
        module = figure(name)
        about = module.ABOUT
        assert about.title, name
        assert about.keys, name
        assert about.label in ("simulated", "emulated", "analytic")
        assert callable(module.draw)
        assert inspect.signature(module.run).parameters["smoke"].default is False, name


def test_the_command_lists_makes_and_refuses(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "figure", lambda name: made_up())
    monkeypatch.setattr(experiment, "figure_names", lambda: ["made-up"])
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    assert "Made up" in runner.invoke(app, ["experiment"]).output
    result = runner.invoke(app, ["experiment", "all", "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "made-up/figure.png").stat().st_size > 1000
    result = runner.invoke(app, ["experiment", "fig99", "-o", str(tmp_path)])
    assert result.exit_code == 2
    assert "no figure is named 'fig99'; there are all, made-up" in result.output
    result = runner.invoke(app, ["experiment", "made-up", "--smoke", "--doubling"])
    assert result.exit_code == 2
    assert "--doubling and --full tell nothing" in " ".join(result.output.split())


def test_a_smoke_run_leaves_results_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(experiment, "figure", lambda name: made_up())
    monkeypatch.setattr(experiment, "figure_names", lambda: ["made-up"])
    monkeypatch.chdir(tmp_path)
    for options in ([], ["--smoke"]):
        assert CliRunner().invoke(app, ["experiment", "made-up", *options]).exit_code == 0
    kept, smoke = (json.loads((tmp_path / folder / "made-up/run.json").read_text())
                   for folder in ("results", "results/smoke"))  # fmt: skip
    assert not kept["smoke"]
    assert smoke["smoke"]


def test_a_note_takes_its_numbers_from_the_table(tmp_path):
    module = made_up()
    module.ABOUT = replace(module.ABOUT, note="Twice as large: {most:.1f}.")
    module.facts = lambda frame: {"most": frame["ratio"].max()}
    for smoke, note in ((False, "Twice as large: 4.0."), (True, "")):
        make("made-up", module, tmp_path, smoke=smoke)
        assert json.loads((tmp_path / "run.json").read_text())["note"] == note


def test_what_simulates_no_minibatches_has_nothing_to_double(tmp_path, monkeypatch):
    module = made_up()
    with_minibatches = module.run
    module.run = lambda smoke=False: with_minibatches(smoke)
    monkeypatch.setattr(experiment, "figure", lambda name: module)
    monkeypatch.setattr(experiment, "figure_names", lambda: ["made-up"])
    result = CliRunner().invoke(app, ["experiment", "all", "--doubling", "--full", "-o", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "it simulates no mini-batches" in result.output
