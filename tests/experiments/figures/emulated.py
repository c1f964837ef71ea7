"""What holds of every emulated figure's table and picture."""

from __future__ import annotations

from types import ModuleType

import pandas as pd
import pytest


def check(module: ModuleType, frame: pd.DataFrame, num_rows: int) -> None:
    """Every plan was simulated and executed; the figures follow from that, and all are drawn."""
    assert len(frame.drop_duplicates(list(module.ABOUT.keys))) == len(frame) == num_rows
    assert module.ABOUT.label == "emulated"
    assert module.ABOUT.measured_columns == ()  # no column is the same on every run
    assert set(frame["label"]) == {"emulated"}
    assert (frame["simulated_s"] > 0).all()
    assert (frame["min_s"] > 0).all()
    assert (frame["num_repeats"] == 1).all()
    assert not frame.isna().any().any()
    assert frame["error_fraction"].tolist() == pytest.approx((frame["simulated_s"] / frame["measured_s"] - 1).tolist())
    makespans, ratios = module.draw(frame).axes
    columns = ("simulated_s", "measured_s"), ("ratio", "measured_ratio")
    for axes, (simulated, measured) in zip((makespans, ratios), columns, strict=True):
        heights = [bar.get_height() for bars in axes.containers if hasattr(bars, "patches") for bar in bars.patches]
        assert heights == [*frame[simulated], *frame[measured]]
