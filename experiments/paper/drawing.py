"""Pictures that set our numbers beside the paper's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {  # from Okabe and Ito, which colour-blind people can tell apart
    "zero-constant": "#0072B2", "calibrated": "#56B4E9", "paper": "#999999", "ours": "#0072B2", "measured": "#D55E00",
}  # fmt: skip
NAMES = {
    "zero-constant": "simulated, no constant fitted",
    "calibrated": "simulated, one constant fitted",
    "paper": "paper (quoted)",
    "ours": "simulated",
}
MOST_BESIDE = 5  # groups of bars, in a panel that has another beside it, whose names do not run into each other


def new_figure(num_rows: int = 1, num_columns: int = 1, *, width: float = 9.0, height: float = 3.6) -> Figure:
    """Return an empty figure that needs no display; sizes are of the whole, height of a row."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height * num_rows), layout="constrained")
    figure.subplots(num_rows, num_columns, squeeze=False)
    return figure


def against_paper(
    frame: pd.DataFrame, group: str, values: Mapping[str, str], *, panel: str | None = None, label: str = ""
) -> Figure:
    """Draw grouped bars: by `group` along the x axis, ours by costs, and the paper's beside them.

    values: columns to draw, a row of panels each, with their axis labels; the paper's is the column `paper_NAME`.
    panel: the column whose values are drawn beside each other, or above each other if there are many groups, with
    columns to draw beside each other then.
    """
    panels = [None] if panel is None else list(dict.fromkeys(frame[panel]))
    if stacked := frame[group].nunique() > MOST_BESIDE:
        figure = new_figure(len(panels), len(values), width=9.0 if len(values) == 1 else 7.0 * len(values), height=2.4)
    else:
        figure = new_figure(len(values), len(panels), width=max(7.0, 5.5 * len(panels)), height=3.2)
    for row, (value, axis_label) in enumerate(values.items()):
        for column, chosen in enumerate(panels):
            axes = figure.axes[column * len(values) + row if stacked else row * len(panels) + column]
            part = frame if chosen is None else frame[frame[panel] == chosen]
            _bars(axes, part, group, value)
            axes.set_ylabel(axis_label)
            axes.set_xlabel(label)
            if chosen is not None and (stacked or not row):
                axes.set_title(str(chosen))
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=8)
    return figure


def _bars(axes: Axes, frame: pd.DataFrame, group: str, value: str) -> None:
    groups = list(dict.fromkeys(frame[group]))
    series = [costs for costs in dict.fromkeys(frame["costs"]) if costs in COLOURS]
    found = {costs: frame[frame["costs"] == costs].set_index(group)[value].to_dict() for costs in series}
    paper = f"paper_{value}"
    if paper in frame and frame[paper].notna().any():
        found["paper"] = frame.drop_duplicates(group).set_index(group)[paper].to_dict()
    width = 0.8 / len(found)
    for order, (name, heights) in enumerate(found.items()):
        places = [place + (order - (len(found) - 1) / 2) * width for place in range(len(groups))]
        drawn = [heights.get(key, math.nan) for key in groups]
        bars = axes.bar(places, drawn, width, label=NAMES.get(name, name), color=COLOURS[name])
        texts = ["" if math.isnan(height) else f"{height:.2f}" for height in drawn]
        axes.bar_label(bars, texts, fontsize=6, padding=1)
    axes.set_xticks(range(len(groups)), [str(key).replace(" ", "\n") for key in groups], fontsize=7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.12)
