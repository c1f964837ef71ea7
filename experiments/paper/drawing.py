"""Pictures that set our numbers beside the paper's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer
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
    """Draw grouped bars: by `group`, ours by costs, and the paper's beside them.

    values: columns to draw, a row of panels each, with their axis labels; the paper's is the column `paper_NAME`.
    panel: the column whose values are drawn beside each other, on one scale. If there are many groups, bars lie and
    panels stand above each other, with columns to draw beside each other then.
    """
    panels = [None] if panel is None else list(dict.fromkeys(frame[panel]))
    if lying := frame[group].nunique() > MOST_BESIDE:
        height = 0.9 + 0.36 * frame[group].nunique()
        figure = new_figure(len(panels), len(values), width=9.0 if len(values) == 1 else 10.5, height=height)
    else:
        figure = new_figure(len(values), len(panels), width=max(7.0, 5.5 * len(panels)), height=3.2)
    for row, (value, axis_label) in enumerate(values.items()):
        most = frame[[name for name in (value, f"paper_{value}") if name in frame]].max(axis=None)
        for column, chosen in enumerate(panels):
            axes = figure.axes[column * len(values) + row if lying else row * len(panels) + column]
            part = frame if chosen is None else frame[frame[panel] == chosen]
            if lying:
                _bars(axes.barh, axes, part, group, value)
                axes.set(xlabel=axis_label, ylabel=label, xlim=(0, 1.12 * most))
                axes.set_yticks(*_ticks(part, group, " " if not row else None), fontsize=9)
                axes.invert_yaxis()
            else:
                _bars(axes.bar, axes, part, group, value)
                axes.set(ylabel=axis_label, xlabel=label, ylim=(0, 1.12 * most))
                axes.set_xticks(*_ticks(part, group, "\n"), fontsize=9)
            if chosen is not None and not row:
                axes.set_title(str(chosen), loc="left" if lying else "center")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False, fontsize=9)
    return figure


def _ticks(frame: pd.DataFrame, group: str, space: str | None) -> tuple[range, list[str]]:
    """Return the places of groups and their names, with these spaces; None: without names."""
    groups = list(dict.fromkeys(frame[group]))
    return range(len(groups)), ["" if space is None else str(key).replace(" ", space) for key in groups]


def _bars(draw: Callable[..., BarContainer], axes: Axes, frame: pd.DataFrame, group: str, value: str) -> None:
    """Draw the bars of a panel by its method for standing or for lying ones."""
    groups = list(dict.fromkeys(frame[group]))
    series = [costs for costs in dict.fromkeys(frame["costs"]) if costs in COLOURS]
    found = {costs: frame[frame["costs"] == costs].set_index(group)[value].to_dict() for costs in series}
    paper = f"paper_{value}"
    if paper in frame and frame[paper].notna().any():
        found["paper"] = frame.drop_duplicates(group).set_index(group)[paper].to_dict()
    width = 0.84 / len(found)
    for order, (name, heights) in enumerate(found.items()):
        places = [place + (order - (len(found) - 1) / 2) * width for place in range(len(groups))]
        drawn = [heights.get(key, math.nan) for key in groups]
        bars = draw(places, drawn, width, label=NAMES.get(name, name), color=COLOURS[name])
        texts = ["" if math.isnan(height) else f"{height:.2f}" for height in drawn]
        axes.bar_label(bars, texts, fontsize=7.5, padding=1)
    axes.spines[["top", "right"]].set_visible(False)
