"""Measures a workload's units, copies and fetches by really training it for a few mini-batches.

The measured runs take the very path that plans take later (same workers, lanes, budget, neighbours), so
there is no second code to keep in step and contention between devices is in the numbers.
"""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from executor.copying import core_copy_bytes_per_s
from executor.pool import DevicePool
from executor.prepare import Prepared
from executor.train import RunResult, train
from hydrasim.cluster import Cluster, Direction
from hydrasim.command import HOST, Command, Event, Kind
from hydrasim.contention import uncontended_s
from hydrasim.dag import kinds_of_minibatches, minibatch_dag
from hydrasim.dataflow import activations_of
from hydrasim.disk import read_text, write_text
from hydrasim.errors import HydraError, ProfileError
from hydrasim.host_updates import shards_on_host
from hydrasim.mechanism import OURS, Mechanism
from hydrasim.profile import MAX_SECONDS, KindProfile, Measurement, Profile, UnitKind
from hydrasim.timeline import Timeline
from hydrasim.workload import Phase, ShardUnit

Samples = dict[str, list[float]]  # "kind|what|..." -> seconds
# For a job's first mini-batch; while no other device computed; of a backward that recomputed although its job keeps.
_FIRST, _ALONE, _OTHER = "first ", "alone ", "recomputed "

ROUNDS, MINIBATCHES = 5, 4
_POLICY = "sharded-lrtf"  # no job is left to run alone at the end, so all are measured beside others
_POLICY_ALONE, _ALONE_EVERY = "one-model-spilling", 2


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
    which the first is slower and measured apart; every other round also trains them on one device alone,
    to see what the others' work costs. A measurement that was cut short goes on at its last
    complete round, from the file `path`.partial.

    Raises:
        ExecutionError: a job failed.
    """
    resumable = None if path is None else path.with_name(path.name + ".partial")
    identity = _identity(prepared, mechanism, minibatches)
    done = _resume(resumable, prepared, identity)
    cluster = _with_core_copies(prepared.cluster)
    with DevicePool(prepared.devices) if pool is None else nullcontext(pool) as workers:
        while len(done) < rounds:
            run = partial(
                train,
                mechanism=mechanism,
                pool=workers,
                seed=len(done),
                update_models=False,
                on_event=on_event,
                recover=False,
            )
            samples = _measured(partial(run, prepared.limited(minibatches), policy=_POLICY), prepared, cluster)
            if len(prepared.devices) > 1 and len(done) % _ALONE_EVERY == 0:
                alone = _measured(partial(run, prepared.limited(2), policy=_POLICY_ALONE), prepared, cluster)
                samples |= {_ALONE + name: seconds for name, seconds in alone.items()}
            done.append(samples)
            if resumable is not None:
                write_text(resumable, json.dumps({"for": identity, "rounds": done}))
    measured = replace(_merge(prepared, done, rounds, minibatches), cluster=cluster)
    if path is not None and resumable is not None:
        measured.write(path)
        resumable.unlink(missing_ok=True)
    return measured


def _with_core_copies(cluster: Cluster) -> Cluster:
    """Add what one core copies, where links are emulated: their copies take part of one."""
    throttled = any(device.on_host and math.isfinite(device.h2d.bytes_per_s) for device in cluster.devices)
    return replace(cluster, core_copy_bytes_per_s=core_copy_bytes_per_s()) if throttled else cluster


def _measured(run: Callable[..., RunResult], prepared: Prepared, cluster: Cluster) -> Samples:
    """Return the seconds of a run, those of backwards as if all had found their activations as their jobs say."""
    commands: list[Command] = []
    timeline = run(commands=commands).timeline
    return _as_their_jobs_say(_samples(timeline, cluster, _in_another_mode(prepared, commands)))


def _in_another_mode(prepared: Prepared, commands: Sequence[Command]) -> set[int]:
    """Return the backwards that did not find their activations as their job says, and so took other times."""
    modes = {job.name: job.activation_mode for job in prepared.workload.jobs}
    backwards = [c for c in commands if c.kind is Kind.COMPUTE and c.unit.phase is Phase.BACKWARD]
    return {
        command.number
        for command in backwards
        if activations_of(prepared.workload.job(command.unit.job), command.unit)
        and command.mode != modes[command.unit.job]
    }


def _samples(timeline: Timeline, cluster: Cluster, others: AbstractSet[int] = frozenset()) -> Samples:
    """Group a timeline's seconds by what was done, with the first mini-batch apart.

    A command's time counts from when it could have begun, as a simulator counts: the hand-over from the
    command before it on its lane is part of it. What others took of a shared link or of the host's cores
    meanwhile is not: a simulation charges that where it happens. others: commands of backwards in another mode than
    their job's, which recomputed.
    """
    samples: Samples = {}
    if dispatch_s := list(timeline.dispatch_s().values()):
        samples["dispatch"] = dispatch_s
    kinds = [device.kind for device in cluster.devices]
    seconds = uncontended_s(timeline, cluster)
    for span in timeline.spans:
        unit = ShardUnit.parse(span.unit)
        if span.kind == Kind.UPDATE.value:
            name = f"update|{unit.job}|{unit.shard}"
        elif span.device == HOST:
            name = f"fetch|{unit.job}"
        elif span.kind == Kind.COMPUTE.value:
            prefix = _OTHER if span.number in others else ""
            name = f"{prefix}unit|{kinds[span.device]}|{unit.job}|{unit.phase.value}|{unit.shard}"
        else:
            name = f"copy|{kinds[span.device]}|{'h2d' if span.kind == Kind.LOAD.value else 'd2h'}|{span.nbytes}"
        samples.setdefault(name if unit.minibatch else _FIRST + name, []).append(seconds[span.number])
    return samples


def _slowdowns(prepared: Prepared, done: list[Samples]) -> dict[str, float]:
    """Return by job how many times longer its units took beside other devices' work, in the same rounds."""
    beside_s, alone_s = (dict.fromkeys(prepared.workload.by_name, 0.0) for _ in range(2))
    for samples in done:
        for name in samples:
            if name.startswith("unit|") and _ALONE + name in samples:
                job = name.split("|")[2]
                beside_s[job] += fmean(samples[name])
                alone_s[job] += fmean(samples[_ALONE + name])
    return {job: max(1.0, beside_s[job] / alone_s[job]) if alone_s[job] else 1.0 for job in beside_s}


def _merge(prepared: Prepared, done: list[Samples], rounds: int, minibatches: int) -> Profile:
    slowdowns = _slowdowns(prepared, done)
    kinds: dict[str, KindProfile] = {
        device.kind: KindProfile(copies={"h2d": {}, "d2h": {}}) for device in prepared.cluster.devices
    }
    fetches: dict[str, Measurement] = {}
    updates: dict[UnitKind, Measurement] = {}
    dispatch = None
    for name, seconds in sorted(_together(done).items()):
        what, *rest = name.split("|")
        if what == "dispatch":
            dispatch = Measurement.of(seconds)
        elif what == "fetch":
            fetches[rest[0]] = Measurement.of(seconds)
        elif what == "update":
            updates[rest[0], Phase.UPDATE, int(rest[1])] = Measurement.of(seconds)
        elif what.endswith("unit"):
            units = kinds[rest[0]].first_units if what.startswith(_FIRST) else kinds[rest[0]].units
            alone = Measurement.of(second / slowdowns[rest[1]] for second in seconds)
            units[rest[1], Phase(rest[2]), int(rest[3])] = alone
        else:
            direction: Direction = "h2d" if rest[1] == "h2d" else "d2h"
            kinds[rest[0]].copies[direction][int(rest[2])] = Measurement.of(seconds)
    provenance = host_provenance() | {"rounds": rounds, "minibatches": minibatches}
    cluster = prepared.cluster
    return Profile(prepared.workload, kinds, fetches, provenance, cluster, dispatch, slowdowns, updates=updates)


def _as_their_jobs_say(samples: Samples) -> Samples:
    """Return the samples with backwards that only ever recomputed freed of that: of the forward's mean."""
    found = {name: seconds for name, seconds in samples.items() if _OTHER not in name}
    for name, seconds in samples.items():
        own = name.replace(_OTHER, "")
        if own not in found:
            start, _, shard = own.rsplit("|", 2)
            forward = f"{start}|{Phase.FORWARD.value}|{shard}"
            found[own] = [max(0.0, second - fmean(samples[forward])) for second in seconds]
    return found


def _together(done: list[Samples]) -> Samples:
    """Return the samples of all rounds, but those taken alone.

    Only of units is the first mini-batch kept apart; a copy of some size may have been done only then.
    """
    found: Samples = {}
    for index, samples in enumerate(done):
        for name, seconds in samples.items():
            is_cold = name.startswith(_FIRST) and index == 0 and len(done) > 1  # new processes are slower, once
            if not name.startswith(_ALONE) and not is_cold:
                found.setdefault(name, []).extend(seconds)
    for name in [name for name in found if name.startswith(_FIRST) and not name.startswith(f"{_FIRST}unit")]:
        found.setdefault(name.removeprefix(_FIRST), found[name])
        del found[name]
    return found


def _resume(path: Path | None, prepared: Prepared, identity: dict[str, Any]) -> list[Samples]:
    """Return the rounds that an interrupted measurement of the same kind left behind."""
    if path is None or not path.exists():
        return []
    try:
        found = json.loads(read_text(path, ProfileError))
        rounds = found["rounds"] if found["for"] == identity else []
        rounds = [{str(name): [float(s) for s in seconds] for name, seconds in samples.items()} for samples in rounds]
        return rounds if all(_is_whole(prepared, samples) for samples in rounds) else []
    except (HydraError, ValueError, LookupError, TypeError, AttributeError):
        return []  # it only saves time; a damaged one is measured again


def _is_whole(prepared: Prepared, samples: Samples) -> bool:
    """Tell whether a round has measured every unit, and holds nothing but times."""
    if not all(0 <= second <= MAX_SECONDS for seconds in samples.values() for second in seconds):
        return False
    found = _merge(prepared, [samples], 1, 1)
    measured = {unit for kind in found.kinds.values() for unit in kind.units} | set(found.updates)
    jobs = prepared.workload.jobs
    updated = {(job.name, Phase.UPDATE, shard) for job in jobs for shard in shards_on_host(job)}
    kinds = [(job, minibatch) for job in jobs for minibatch, _ in kinds_of_minibatches(job)]
    return measured >= updated | {(job.name, *node) for job, n in kinds for node in minibatch_dag(job, n).nodes}


def _identity(prepared: Prepared, mechanism: Mechanism, minibatches: int) -> dict[str, Any]:
    """Return what rounds must have in common to be one measurement."""
    host = {name: value for name, value in host_provenance().items() if name != "measured_at"}
    run = {"mechanism": asdict(mechanism), "minibatches": minibatches}
    return {"workload": prepared.workload.digest, "cluster": prepared.cluster.digest, **run, **host}


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
