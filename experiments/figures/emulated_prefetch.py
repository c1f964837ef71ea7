"""Double buffering, executed: what it gains where a load takes half of a unit's time, all of it, or twice that."""

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
from hydrasim.dag import minibatch_dag
from hydrasim.dataflow import dataflow
from hydrasim.mechanism import OURS
from hydrasim.workload import ShardUnit

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from hydrasim.profile import CostModel
    from hydrasim.workload import Workload

ABOUT = About(
    title="Double buffering, executed: four transformers on two emulated devices, speedup over loading in turn",
    label="emulated",
    keys=("load_over_unit", "prefetch"),
    note=f"{NOTE} The speed of the links is chosen so that the state of a mini-batch's units takes 0.5, 1 or 2 times "
    "as long to load as they compute, by a profile of devices whose copies go at memory speed. The simulated speedup "
    "is what buffering can gain here.",
)
_LOADS = (0.5, 1.0, 2.0)


def run(smoke: bool = False) -> pd.DataFrame:
    """Return a row a speed of the links, with prefetch and without."""
    from executor.profiler import profile

    made = small_transformers(2) if smoke else transformers(4)
    jobs = [replace(job, activation_mode="recompute") for job in made]  # as on slow links, whatever their speed
    unhindered = on_two_devices(jobs)
    measured = profile(unhindered, rounds=1, minibatches=3)
    rate = loaded_bytes_a_second(unhindered.workload, measured.costs(measured.cluster or unhindered.cluster))
    variants = {}
    for share in (1.0,) if smoke else _LOADS:
        prepared = on_two_devices(jobs, rate / share)
        for prefetch in (False, True):
            variants[share, prefetch] = Variant(prepared, mechanism=replace(OURS, prefetch=prefetch))
    frame = execute(variants, ABOUT.keys, smoke=smoke)
    return with_ratios(frame, lambda seconds: seconds.groupby(frame["load_over_unit"]).transform("first") / seconds)


def loaded_bytes_a_second(workload: Workload, costs: CostModel) -> float:
    """Return the state that the units of a mini-batch of each job read, over the seconds for which they compute."""
    nbytes, seconds = 0, 0.0
    for job in workload.jobs:
        for node in minibatch_dag(job).nodes:
            unit = ShardUnit(job.name, *node, 1)
            nbytes += sum(need for key, need in dataflow(job, unit).reads if key.kind == "w")
            seconds += costs.compute_s(unit, 0)
    return nbytes / seconds


def draw(frame: pd.DataFrame) -> Figure:
    """Draw makespans and speedups over loading in turn."""
    names = [f"{row.load_over_unit:g}x,\n{'buffered' if row.prefetch else 'in turn'}" for row in frame.itertuples()]
    return beside(frame, names, "speedup over loading in turn", "a load over a unit, and how loads are made")
