"""Fig. 9B executed in miniature: from one device to two, for two to four models."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from experiments.executed import (
    NOTE,
    Variant,
    beside,
    execute,
    on_two_devices,
    small_transformers,
    transformers,
    with_ratios,
)
from experiments.figures import About

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

ABOUT = About(
    title="From one emulated device to two, executed: speedup of SHARP for two to four transformers",
    label="emulated",
    source="Fig. 9B",
    keys=("num_jobs", "num_devices"),
    note=f"{NOTE} Speedups are over SHARP on one device, not over model parallelism. Both are predicted from one "
    "profile, measured on two devices; each holds half of one model's state and copies at memory speed.",
)


def run(smoke: bool = False) -> pd.DataFrame:
    """Return a row a number of jobs and of devices."""
    variants = {}
    for num_jobs in (2,) if smoke else (2, 3, 4):
        both = on_two_devices(small_transformers(num_jobs) if smoke else transformers(num_jobs))
        variants[num_jobs, 2] = Variant(both)
        variants[num_jobs, 1] = Variant(replace(both, devices=both.devices[:1]))
    frame = execute(variants, ABOUT.keys, smoke=smoke).sort_values(list(ABOUT.keys), ignore_index=True)
    return with_ratios(frame, lambda seconds: seconds.groupby(frame["num_jobs"]).transform("first") / seconds)


def draw(frame: pd.DataFrame) -> Figure:
    """Draw makespans and speedups over one device."""
    names = [f"{row.num_jobs} jobs,\n{row.num_devices} dev." for row in frame.itertuples()]
    return beside(frame, names, "speedup over one device")
