"""Bars stand where they belong, and none is drawn for what is missing."""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.container import BarContainer

from experiments.paper.drawing import COLOURS, against_paper


def test_each_series_has_a_bar_for_each_group_that_it_has_a_value_for():
    nothing = float("nan")
    frame = pd.DataFrame(
        {
            "system": ["A", "B", "A", "B", "C"],
            "costs": ["zero-constant", "zero-constant", "calibrated", "calibrated", "none"],
            "ratio": [1.0, 2.0, 1.5, 2.5, nothing],
            "paper_ratio": [1.25, nothing, 1.25, nothing, 3.0],
        }
    )
    axes = against_paper(frame, "system", {"ratio": "speedup"}).axes[0]
    drawn = {
        bars.get_label(): [bar.get_height() for bar in bars if not math.isnan(bar.get_height())]
        for bars in axes.containers
        if isinstance(bars, BarContainer)
    }
    assert list(drawn.values()) == [[1.0, 2.0], [1.5, 2.5], [1.25, 3.0]]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["A", "B", "C"]
    assert len(set(COLOURS.values())) >= 4


def test_bars_of_many_groups_lie_in_panels_above_each_other():
    many, few = ([str(number) for number in range(count)] for count in (8, 3))
    for groups, num_columns, place in ((many, 1, "left"), (few, 2, "center")):
        frame = pd.DataFrame(
            [
                {"system": group, "task": task, "costs": "calibrated", "ratio": 1.0}
                for task in ("text", "images")
                for group in groups
            ]
        )
        figure = against_paper(frame, "system", {"ratio": "speedup"}, panel="task")
        assert [axes.get_title(loc=place) for axes in figure.axes] == ["text", "images"]
        names = figure.axes[0].get_yticklabels() if groups is many else figure.axes[0].get_xticklabels()
        assert [name.get_text() for name in names] == groups
        spec = figure.axes[0].get_subplotspec()
        assert spec is not None
        assert spec.get_gridspec().ncols == num_columns


def test_columns_of_many_groups_stand_beside_each_other_a_row_a_panel():
    frame = pd.DataFrame(
        [
            {"system": str(number), "task": task, "costs": "calibrated", "ratio": 1.0, "busy": 13.05}
            for task in ("text", "images")
            for number in range(8)
        ]
    )
    figure = against_paper(frame, "system", {"ratio": "speedup", "busy": "busy"}, panel="task")
    found = [(axes.get_title(loc="left"), axes.get_xlabel()) for axes in figure.axes]
    assert found == [("text", "speedup"), ("", "busy"), ("images", "speedup"), ("", "busy")]
    assert {text.get_text() for text in figure.axes[1].texts} == {"13.05"}


def test_panels_beside_each_other_have_one_scale():
    frame = pd.DataFrame(
        [
            {"model": model, "batch": batch, "costs": "calibrated", "ratio": ratio, "paper_ratio": 4.0}
            for batch, ratio in (("8", 2.0), ("16", 8.0))
            for model in ("100M", "900M")
        ]
    )
    left, right = against_paper(frame, "model", {"ratio": "speedup"}, panel="batch").axes
    assert left.get_ylim() == right.get_ylim() == (0, 1.12 * 8.0)
