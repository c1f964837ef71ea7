"""The loading zone, executed in miniature: from none to a quarter of a device's memory."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from experiments.executed import (
    NOTE,
    SLOW_LINK_BYTES_PER_S,
    Variant,
    beside,
    execute,
    on_two_devices,
    small_transformers,
    transformers,
    with_ratios,
)
from experiments.figures import About
from hydrasim.mechanism import PAPER

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

ABOUT = About(
    title="Loading zone, executed: four transformers on two emulated devices, speedup over none",
    label="emulated",
    keys=("zone_fraction",),
    note=f"{NOTE} The paper has no such figure. Data moves by its mechanism; models are cut alike for every zone, a "
    "share of a device's memory for state. A load takes about as long as a unit.",
)


def run(smoke: bool = False) -> pd.DataFrame:
    """Return a row a size of the zone."""
    jobs = small_transformers(2) if smoke else transformers(4)
    prepared = on_two_devices(jobs, SLOW_LINK_BYTES_PER_S)
    variants = {
        (zone,): Variant(prepared, mechanism=replace(PAPER, prefetch=zone > 0, loading_zone_fraction=zone))
        for zone in ((0.0, 0.25) if smoke else (0.0, 0.05, 0.1, 0.15, 0.25))
    }
    return with_ratios(execute(variants, ABOUT.keys, smoke=smoke), lambda seconds: seconds[0] / seconds)


def draw(frame: pd.DataFrame) -> Figure:
    """Draw makespans and speedups over no loading zone."""
    names = [f"{zone:.0%}" for zone in frame["zone_fraction"]]
    return beside(frame, names, "speedup over no loading zone", "loading zone, share of the memory for state")
