"""The paper's ratios beside ours, from results/: the rows that the README shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import pandas as pd


class Line(NamedTuple):
    """A row: what it compares, the figure, which of its rows, and the column with our ratio."""

    text: str
    figure: str
    row: Mapping[str, object]
    column: str = "ratio"


_FIG8 = [(version, task) for version in (2021, 2022) for task in ("WikiText-2", "CIFAR-10")]
_KEEPING = "ratio_keeping"
LINES = (
    *(
        Line(
            f"{system} over model parallelism, {task}, {version} version", "end-to-end",
            {"version": version, "task": task.lower(), "system": system},
        )
        for system in ("Hydra", "GPipe")
        for version, task in _FIG8
    ),
    *(
        Line(
            f"Hydra over model parallelism that keeps activations, WikiText-2, {version} version", "end-to-end",
            {"version": version, "task": "wikitext-2", "system": "Hydra"}, _KEEPING,
        )
        for version in (2021, 2022)
    ),
    *(
        Line(
            f"{system}, most {what} that fit, over model parallelism, WikiText-2, 2021 version", "end-to-end",
            {"version": 2021, "task": "wikitext-2", "system": system},
        )
        for system, what in (("DeepSpeed model+data", "replicas"), ("DeepSpeed model+task", "groups"))
    ),
    *(
        Line(f"4 models on {count} GPUs, over model parallelism that {does}", "num-gpus", {"num_gpus": count}, column)
        for count in (2, 3, 4)
        for does, column in (("recomputes", "ratio"), ("keeps activations", _KEEPING))
    ),
    Line("runtime without double buffering", "ablation", {"model": "1B", "level": "no buffering"}),
    Line("the same, with unpinned copies on the compute stream", "ablation", {"model": "1B", "level": "plain copies"}),
    Line("runtime without SHARP and double buffering", "ablation", {"model": "1B", "level": "no SHARP, no buffering"}),
    Line(
        "the same, with unpinned copies on the compute stream", "ablation",
        {"model": "1B", "level": "no SHARP, plain copies"},
    ),
)  # fmt: skip


def paper_table(results: Path) -> str:
    """Return the paper's ratios, ours at both costs, and our errors, as Markdown."""
    import pandas as pd

    rows = ["| ratio | paper | no constant fitted | error | one constant fitted | error |", "|---|---|---|---|---|---|"]
    for line in LINES:
        found = where(pd.read_csv(results / line.figure / "data.csv"), **line.row).set_index("costs")
        paper = float(found["paper_ratio"].iloc[0])
        cells = []
        for costs in ("zero-constant", "calibrated"):
            ours = float(found.loc[costs, line.column]) if costs in found.index else None
            cells += ["", ""] if ours is None else [f"{ours:.2f}", f"{100 * (ours / paper - 1):+.0f} %"]
        rows.append(f"| {line.text} | {paper:g} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def where(frame: pd.DataFrame, **row: object) -> pd.DataFrame:
    """Return the rows that have these values in these columns."""
    for column, value in row.items():
        frame = frame[frame[column] == value]
    return frame


def cell(frame: pd.DataFrame, column: str = "ratio", **row: object) -> float:
    """Return what stands in a column of the one row that has these values in these columns."""
    return float(where(frame, **row)[column].item())


def value_range(values: pd.Series, digits: int = 2) -> str:
    """Return from where to where values go, in words."""
    return _from_to(f"{values.min():.{digits}f}", f"{values.max():.{digits}f}")


def percent_range(fractions: pd.Series, sign: str = "+", digits: int = 0) -> str:
    """Return from where to where fractions go, in per cent, in words."""
    low, high = (f"{100 * fraction:{sign}.{digits}f}" for fraction in (fractions.min(), fractions.max()))
    return f"{_from_to(low, high)} %"


def _from_to(low: str, high: str) -> str:
    return low if low == high else f"{low} to {high}"
