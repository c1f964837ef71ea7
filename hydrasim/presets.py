"""Worlds by name: the paper's unit tests and simulations, each as workload, cluster and effects."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Literal, get_args

from hydrasim.cluster import GIB, Cluster, Device
from hydrasim.errors import WorkloadError
from hydrasim.workload import Shard, TrainingJob, Workload

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from hydrasim.mechanism import Effects

Kind = Literal["homogeneous", "heterogeneous"]

_NUM_SHARDS = 4  # of a Fig. 7 model; unfused, so that a mini-batch has 8 units
_HOMOGENEOUS_EPOCH_S = 2 * 3600.0
_HOMOGENEOUS_UNITS = 2000
_EPOCH_S_RANGE = (30 * 60.0, 4 * 3600.0)
_UNITS_RANGE = (100, 10_000)


@dataclass(frozen=True)
class Preset:
    """A world to simulate. effects: those that the figure it comes from was made with."""

    workload: Workload
    cluster: Cluster
    effects: Effects


def paper_fig6() -> Preset:
    """Three jobs A, B, C of two shards on two devices; each of their four units takes 1 s.

    One mini-batch, unfused (F0 F1 B1 B0), activations kept, so that forward and backward weigh the same.

    Source: the paper's Fig. 6: model parallelism ends after 12 units, task parallelism 8, SHARP 6.
    """
    shards = (Shard(1.0, 1.0),) * 2
    jobs = tuple(TrainingJob(name, shards, 1, fused=False, activation_mode="keep") for name in "ABC")
    return Preset(Workload(jobs), Cluster.of(2, _device()), "theory")


def paper_fig7(
    models: int = 8, devices: int = 4, kind: Kind = "homogeneous", seed: int = 0, units_scale: float = 1.0
) -> Preset:
    """Models of equal or drawn size, each trained for one epoch on identical devices; no transfers.

    homogeneous: every model takes 7200 s an epoch in 2000 units of 3.6 s; seed changes nothing.
    heterogeneous: `random.Random(seed)` draws, model by model in the order m0, m1, ..., first the epoch's
    seconds, `uniform(1800, 14400)`, then its units, `randint(100, 10000)`.

    From units to a job: 4 shards, unfused, activations kept, make 8 units a mini-batch (F0 F1 F2 F3 B3 B2
    B1 B0); the job has max(1, round(units * units_scale / 8)) mini-batches in its one epoch, and each unit
    takes the epoch's seconds over the units that this gives, equal within a model. So rounding and
    units_scale change how finely an epoch is cut, never how long it is; without rounding and at scale 1
    the unit counts are the paper's.

    models, devices: the paper has 8 or 64 and 4 or 8; any count from 1 works.

    Raises:
        WorkloadError: a parameter is out of range.

    Source: section 4.7 and Fig. 7 of the paper; the epoch count and the distributions inside the two
    ranges are not stated there: one epoch and uniform are our reading.
    """
    if models < 1:
        raise WorkloadError(f"paper-fig7: models is {models}; it must be at least 1.")
    if kind not in get_args(Kind):
        raise WorkloadError(f"paper-fig7: kind is {kind!r}; it is one of {', '.join(get_args(Kind))}.")
    if not 0 < units_scale <= 1:
        raise WorkloadError(f"paper-fig7: units_scale is {units_scale}; it must be above 0 and at most 1.")
    rng = Random(seed)
    jobs = []
    for index in range(models):
        epoch_s, num_units = _HOMOGENEOUS_EPOCH_S, _HOMOGENEOUS_UNITS
        if kind == "heterogeneous":
            epoch_s, num_units = rng.uniform(*_EPOCH_S_RANGE), rng.randint(*_UNITS_RANGE)
        jobs.append(_fig7_job(f"m{index}", epoch_s, num_units * units_scale))
    return Preset(Workload(tuple(jobs)), Cluster.of(devices, _device()), "theory")


PRESETS: Mapping[str, Callable[..., Preset]] = {"paper-fig6": paper_fig6, "paper-fig7": paper_fig7}


def make_preset(name: str, **parameters: object) -> Preset:
    """Make a preset by its name; parameters that are None take their defaults.

    Raises:
        WorkloadError: there is no such preset, or it has no such parameter.
    """
    if name not in PRESETS:
        raise WorkloadError(f"no preset is named {name!r}; there are {', '.join(PRESETS)}.")
    given = {key: value for key, value in parameters.items() if value is not None}
    known = inspect.signature(PRESETS[name]).parameters
    for key in given:
        if key not in known:
            raise WorkloadError(f"preset {name!r} has no parameter {key!r}; it has {', '.join(known) or 'none'}.")
    return PRESETS[name](**given)


def _fig7_job(name: str, epoch_s: float, num_units: float) -> TrainingJob:
    units_per_minibatch = 2 * _NUM_SHARDS
    minibatches = max(1, round(num_units / units_per_minibatch))
    unit_s = epoch_s / (minibatches * units_per_minibatch)
    shards = (Shard(unit_s, unit_s),) * _NUM_SHARDS
    return TrainingJob(name, shards, minibatches, fused=False, activation_mode="keep")


def _device() -> Device:
    """Return a device for worlds without transfers; its memory plays no part."""
    return Device(GIB)
