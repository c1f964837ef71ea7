"""Table 3 executed in miniature: without SHARP, without double buffering, and without spilling."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from experiments.executed import (
    MIB,
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
from hydrasim.mechanism import OURS

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

ABOUT = About(
    title="Ablation, executed: four transformers on two emulated devices, makespan over that of SHARP with its buffer",
    label="emulated",
    source="Table 3",
    keys=("level",),
    note=f"{NOTE} Two devices cannot gain what the paper's eight do. Data moves by our mechanism on every level; a "
    "load takes about as long as a unit. No spilling, which the paper lacks: the same shards where all of them fit.",
)

FULL = "SHARP, double buffering"
_AMPLE_BYTES = 1024 * MIB


def run(smoke: bool = False) -> pd.DataFrame:
    """Return a row a level of the ablation."""
    from executor import CpuDevice

    spilled = on_two_devices(small_transformers(2) if smoke else transformers(4), SLOW_LINK_BYTES_PER_S)
    unspilled = replace(spilled, devices=(CpuDevice(_AMPLE_BYTES, SLOW_LINK_BYTES_PER_S),) * 2)
    unbuffered = replace(OURS, prefetch=False)
    variants = {
        ("no SHARP, no double buffering",): Variant(spilled, "one-model-spilling", unbuffered),
        ("no double buffering",): Variant(spilled, mechanism=unbuffered),
        (FULL,): Variant(spilled),
        ("our policy, double buffering",): Variant(spilled, "resident-lrtf"),
        ("SHARP, no spilling",): Variant(unspilled),
    }
    frame = execute(variants, ABOUT.keys, smoke=smoke)
    return with_ratios(frame, lambda seconds: seconds / seconds[frame["level"] == FULL].item())


def draw(frame: pd.DataFrame) -> Figure:
    """Draw every level's makespan, and its ratio to that of SHARP with double buffering."""
    names = [str(level).replace(", ", ",\n").replace("double ", "double\n") for level in frame["level"]]
    return beside(frame, names, "makespan, SHARP with buffer = 1")
