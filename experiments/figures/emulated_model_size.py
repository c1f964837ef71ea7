"""Fig. 10 executed in miniature: ever larger models on devices that stay as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from experiments.executed import (
    MIB,
    NOTE,
    SLOW_LINK_BYTES_PER_S,
    Variant,
    beside,
    execute,
    transformers,
    with_ratios,
)
from experiments.figures import About

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

ABOUT = About(
    title="Model size, executed: three transformers on two emulated devices of fixed memory, seconds a parameter",
    label="emulated",
    source="Fig. 10 (2022)",
    keys=("depth",),
    note=f"{NOTE} Ratios are of the makespan a parameter, to that of the smallest models, and not over model "
    "parallelism: 1 means that a larger model costs no more than its size. A load takes about as long as a unit.",
)

_MEMORY_BYTES = 64 * MIB


def run(smoke: bool = False) -> pd.DataFrame:
    """Return a row a depth of the models."""
    from executor import CpuDevice, prepare
    from experiments.suite import state_bytes

    devices = [CpuDevice(_MEMORY_BYTES, SLOW_LINK_BYTES_PER_S)] * 2
    variants, sizes = {}, []
    for depth in (1, 2) if smoke else (2, 4, 8, 12):
        jobs = transformers(2, depth=depth, minibatches=2) if smoke else transformers(3, depth=depth)
        variants[depth,] = Variant(prepare(jobs, devices))
        sizes.append((sum(p.numel() for p in jobs[0].module.parameters()), state_bytes(jobs[0]) / _MEMORY_BYTES))
    frame = execute(variants, ABOUT.keys, smoke=smoke)
    frame[["num_parameters", "state_over_memory"]] = sizes
    growth = frame["num_parameters"] / frame["num_parameters"][0]
    return with_ratios(frame, lambda seconds: seconds / seconds[0] / growth)


def draw(frame: pd.DataFrame) -> Figure:
    """Draw makespans, and seconds a parameter relative to the smallest models."""
    names = [f"{row.num_parameters / 1e6:.1f} M\n({row.state_over_memory:.1f})" for row in frame.itertuples()]
    return beside(
        frame, names, "seconds a parameter, smallest = 1", "parameters of a model (its state / device memory)"
    )
