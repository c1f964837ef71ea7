"""The README's rows are the figures' rows."""

from __future__ import annotations

import pandas as pd
import pytest

from experiments.paper.table import LINES, cell, paper_table, percent_range, value_range, where


def write_tables(folder, calibrated: bool = True) -> None:
    for figure in {line.figure for line in LINES}:
        rows: dict[tuple[object, ...], dict[str, object]] = {}
        for line in (line for line in LINES if line.figure == figure):
            for costs, ratio in (("zero-constant", 3.0), ("calibrated", 5.0))[: 2 if calibrated else 1]:
                row = rows.setdefault((costs, *line.row.values()), {**line.row, "costs": costs, "paper_ratio": 4.0})
                row[line.column] = ratio
        (folder / figure).mkdir()
        pd.DataFrame(rows.values()).to_csv(folder / figure / "data.csv", index=False)


def test_each_ratio_stands_beside_the_papers_with_the_error_of_each(tmp_path):
    write_tables(tmp_path)
    lines = paper_table(tmp_path).splitlines()
    assert len(lines) == 2 + len(LINES)
    assert lines[2] == "| Hydra over model parallelism, WikiText-2, 2021 version | 4 | 3.00 | -25 % | 5.00 | +25 % |"


def test_costs_that_a_figure_does_not_have_leave_their_cells_empty(tmp_path):
    write_tables(tmp_path, calibrated=False)
    assert paper_table(tmp_path).splitlines()[2].endswith("| 3.00 | -25 % |  |  |")


def test_a_figure_that_was_not_made_is_missed(tmp_path):
    with pytest.raises(FileNotFoundError, match="end-to-end"):
        paper_table(tmp_path)


def test_gpipe_has_a_row_a_version_and_task():
    rows = [tuple(line.row[key] for key in ("version", "task")) for line in LINES if line.row.get("system") == "GPipe"]
    assert rows == [(2021, "wikitext-2"), (2021, "cifar-10"), (2022, "wikitext-2"), (2022, "cifar-10")]


def test_cells_are_found_by_what_their_row_says():
    frame = pd.DataFrame({"name": ["a", "a", "b"], "size": [1, 2, 1], "ratio": [0.5, 1.0, 2.0]})
    assert cell(frame, name="a", size=2) == 1.0
    assert list(where(frame, size=1)["name"]) == ["a", "b"]
    with pytest.raises(ValueError, match="size 1"):
        cell(frame, name="a")


def test_ranges_name_both_ends_unless_they_read_the_same():
    values = pd.Series([0.501, 0.25, 0.5])
    assert (value_range(values), value_range(values[[0, 2]])) == ("0.25 to 0.50", "0.50")
    assert percent_range(-values) == "-50 to -25 %"
    assert percent_range(values, sign="", digits=1) == "25.0 to 50.1 %"
