"""Measures a workload's units, copies and fetches by really training it for a few mini-batches.

The measured runs take the very path that plans take later (same workers, lanes, budget, neighbours), so
there is no second code to keep in step and contention between devices is in the numbers.
"""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from executor.pool import DevicePool
from executor.prepare import Prepared
from executor.train import train
from hydrasim.cluster import Cluster
from hydrasim.command import HOST, Event, Kind
from hydrasim.contention import uncontended_s
from hydrasim.dag import minibatch_dag
from hydrasim.disk import read_text, write_text
from hydrasim.errors import HydraError, ProfileError
from hydrasim.mechanism import OURS, Mechanism
from hydrasim.profile import MAX_SECONDS, Direction, KindProfile, Measurement, Profile
from hydrasim.timeline import Timeline
from hydrasim.workload import Phase, ShardUnit

Samples = dict[str, list[float]]  # "kind|what|..." -> seconds
_FIRST = "first "  # names what was done for a job's first mini-batch

ROUNDS, MINIBATCHES = 3, 5
_POLICY = "sharded-lrtf"  # no job is left to run alone at the end, so all are measured beside others


def profile(
    prepared: Prepared,
    *,
    path: Path | None = None,
    rounds: int = ROUNDS,
    minibatches: int = MINIBATCHES,
    mechanism: Mechanism = OURS,
    pool: DevicePool | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> Profile:
    """Measure a prepared workload; weights stay as they are. Write the profile to `path` if given.

    rounds: repeats of the whole measurement; each trains every job for `minibatches` mini-batches, of
    which the first is slower and measured apart. A measurement that was cut short goes on at its last
    complete round, from the file `path`.partial.

    Raises:
        ExecutionError: a job failed.
    """
    partial = None if path is None else path.with_name(path.name + ".partial")
    done = _resume(partial, prepared)
    with DevicePool(prepared.devices) if pool is None else nullcontext(pool) as workers:
        while len(done) < rounds:
            result = train(
                prepared.limited(minibatches), policy=_POLICY, mechanism=mechanism, pool=workers,
                seed=len(done), update_models=False, on_event=on_event,
            )  # fmt: skip
            done.append(_samples(result.timeline, prepared.cluster))
            if partial is not None:
                write_text(partial, json.dumps({"for": _identity(prepared), "rounds": done}))
    measured = _merge(prepared, done, rounds, minibatches)
    if path is not None and partial is not None:
        measured.write(path)
        partial.unlink(missing_ok=True)
    return measured


def _samples(timeline: Timeline, cluster: Cluster) -> Samples:
    """Group a timeline's seconds by what was done, with the first mini-batch apart.

    A command's time counts from when it could have begun, as a simulator counts: the hand-over from the
    command before it on its lane is part of it. What others took of a shared link or of the host's cores
    meanwhile is not: a simulation charges that where it happens.
    """
    samples: Samples = {}
    if dispatch_s := list(timeline.dispatch_s().values()):
        samples["dispatch"] = dispatch_s
    kinds = [device.kind for device in cluster.devices]
    seconds = uncontended_s(timeline, cluster)
    for span in timeline.spans:
        unit = ShardUnit.parse(span.unit)
        if span.device == HOST:
            name = f"fetch|{unit.job}"
        elif span.kind == Kind.COMPUTE.value:
            name = f"unit|{kinds[span.device]}|{unit.job}|{unit.phase.value}|{unit.shard}"
        else:
            name = f"copy|{kinds[span.device]}|{'h2d' if span.kind == Kind.LOAD.value else 'd2h'}|{span.nbytes}"
        samples.setdefault(name if unit.minibatch else _FIRST + name, []).append(seconds[span.number])
    return samples


def _merge(prepared: Prepared, done: list[Samples], rounds: int, minibatches: int) -> Profile:
    together: Samples = {}
    for index, samples in enumerate(done):
        for name, seconds in samples.items():
            if index or not name.startswith(_FIRST) or rounds == 1:  # new processes are slower at first, once
                together.setdefault(name, []).extend(seconds)
    for name in [name for name in together if name.startswith(_FIRST)]:
        if not name.startswith(f"{_FIRST}unit"):  # only units differ; a copy may have been done only then
            together.setdefault(name.removeprefix(_FIRST), together[name])
            del together[name]
    kinds: dict[str, KindProfile] = {
        device.kind: KindProfile(copies={"h2d": {}, "d2h": {}}) for device in prepared.cluster.devices
    }
    fetches: dict[str, Measurement] = {}
    dispatch = None
    for name, seconds in sorted(together.items()):
        what, *rest = name.split("|")
        measurement = Measurement.of(seconds)
        if what == "dispatch":
            dispatch = measurement
        elif what == "fetch":
            fetches[rest[0]] = measurement
        elif what.endswith("unit"):
            units = kinds[rest[0]].first_units if what.startswith(_FIRST) else kinds[rest[0]].units
            units[rest[1], Phase(rest[2]), int(rest[3])] = measurement
        else:
            direction: Direction = "h2d" if rest[1] == "h2d" else "d2h"
            kinds[rest[0]].copies[direction][int(rest[2])] = measurement
    provenance = host_provenance() | {"rounds": rounds, "minibatches": minibatches}
    return Profile(prepared.workload, kinds, fetches, provenance, prepared.cluster, dispatch)


def _resume(partial: Path | None, prepared: Prepared) -> list[Samples]:
    """Return the rounds that an interrupted measurement of the same workload left behind."""
    if partial is None or not partial.exists():
        return []
    try:
        found = json.loads(read_text(partial, ProfileError))
        rounds = found["rounds"] if found["for"] == _identity(prepared) else []
        rounds = [{str(name): [float(s) for s in seconds] for name, seconds in samples.items()} for samples in rounds]
        return rounds if all(_is_whole(prepared, samples) for samples in rounds) else []
    except (HydraError, ValueError, LookupError, TypeError, AttributeError):
        return []  # it only saves time; a damaged one is measured again


def _is_whole(prepared: Prepared, samples: Samples) -> bool:
    """Tell whether a round has measured every unit, and holds nothing but times."""
    if not all(0 <= second <= MAX_SECONDS for seconds in samples.values() for second in seconds):
        return False
    measured = {unit for kind in _merge(prepared, [samples], 1, 1).kinds.values() for unit in kind.units}
    return measured >= {(job.name, *node) for job in prepared.workload.jobs for node in minibatch_dag(job).nodes}


def _identity(prepared: Prepared) -> list[str]:
    return [prepared.workload.digest, prepared.cluster.digest]


def host_provenance() -> dict[str, Any]:
    """Say what machine and which versions something is measured on, and when."""
    with open("/proc/cpuinfo") as lines:
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
    return {
        "cpu": cpu,
        "num_cores": os.cpu_count(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "threads_per_device": 1,
        "measured_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }
