"""Fig. 6 executed in miniature: three models of two shards on two devices, under the policies that it draws."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from experiments.executed import (
    MIB,
    NOTE,
    SHARP,
    Variant,
    beside,
    execute,
    small_transformers,
    transformers,
    with_ratios,
)
from experiments.figures import About

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from executor import TorchJob

ABOUT = About(
    title="Fig. 6, executed: three equal models of two shards on two emulated devices, makespan over SHARP's",
    label="emulated",
    source="Fig. 6",
    keys=("policy",),
    note=f"{NOTE} The paper draws units of equal time, where the ratios are 2, 1.33 and 1; here a backward recomputes "
    "and so takes longer than a forward. Everything fits: the figure is about order.",
)

_MEMORY_BYTES = 256 * MIB
_REPEATS = 5


def run(smoke: bool = False) -> pd.DataFrame:
    """Return a row a policy."""
    from executor import CpuDevice, prepare

    prepared = prepare(equal_jobs(smoke=smoke), [CpuDevice(_MEMORY_BYTES)] * 2, fused=False)
    variants = {(policy,): Variant(prepared, policy) for policy in ("model-parallel", "task-parallel", SHARP)}
    frame = execute(variants, ABOUT.keys, repeats=_REPEATS, smoke=smoke)
    return with_ratios(frame, lambda seconds: seconds / seconds[frame["policy"] == SHARP].item())


def equal_jobs(*, smoke: bool = False) -> list[TorchJob]:
    """Return three equal models, each cut in the middle."""
    jobs = small_transformers(3) if smoke else transformers(3, width=192, depth=4, minibatches=12)
    return [replace(job, cuts=(len(job.layers) // 2,)) for job in jobs]


def draw(frame: pd.DataFrame) -> Figure:
    """Draw every policy's makespan and its ratio to SHARP's."""
    return beside(frame, list(frame["policy"]), "makespan over SHARP's")
