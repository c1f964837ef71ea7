"""The paper's ratios beside ours, from results/: the rows that the README shows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple


class Line(NamedTuple):
    """A row: what it compares, the figure, which of its rows, and the column with our ratio."""

    text: str
    figure: str
    row: Mapping[str, object]
    column: str = "ratio"


_WIKITEXT, _CIFAR = {"task": "wikitext-2"}, {"task": "cifar-10"}
_KEEPING = "ratio_keeping"
LINES = (
    Line("Hydra over model parallelism, WikiText-2", "end-to-end", {**_WIKITEXT, "system": "Hydra"}),
    Line("the same, CIFAR-10", "end-to-end", {**_CIFAR, "system": "Hydra"}),
    Line("GPipe over model parallelism, WikiText-2", "end-to-end", {**_WIKITEXT, "system": "GPipe"}),
    Line("the same, CIFAR-10", "end-to-end", {**_CIFAR, "system": "GPipe"}),
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
        frame = pd.read_csv(results / line.figure / "data.csv")
        for column, value in line.row.items():
            frame = frame[frame[column] == value]
        found = frame.set_index("costs")
        paper = float(found["paper_ratio"].iloc[0])
        cells = []
        for costs in ("zero-constant", "calibrated"):
            ours = float(found.loc[costs, line.column]) if costs in found.index else None
            cells += ["", ""] if ours is None else [f"{ours:.2f}", f"{100 * (ours / paper - 1):+.0f} %"]
        rows.append(f"| {line.text} | {paper:g} | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"
