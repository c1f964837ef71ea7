"""Turns user jobs and devices into the simulator's workload and cluster, cut and measured."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Literal, get_args

import torch

from executor.copying import core_copy_bytes_per_s
from executor.devices import Device
from executor.errors import DeviceError, JobError
from executor.foretell import foretold_s
from executor.job import TorchJob, UpdateOn
from executor.partition import Partition, partition, reserved_bytes
from executor.pilot import JobPilot
from executor.search import searched
from hydrasim.cluster import Bus, Cluster
from hydrasim.cluster import Device as SimulatedDevice
from hydrasim.dataflow import BlockKey, block_bytes, neediest_unit, state_keys, unit_bytes
from hydrasim.errors import HydraError
from hydrasim.workload import ActivationMode, Shard, TrainingJob, Workload

Partitioner = Literal["greedy", "search"]


@dataclass(frozen=True)
class Prepared:
    """Jobs cut for their devices, ready to profile, simulate, plan and execute.

    reserve_bytes: of every device, set apart for jobs that are added to a run.
    """

    partitions: tuple[Partition, ...]
    devices: tuple[Device, ...]
    fused: bool = True
    max_minibatches: int | None = None
    loading_zone_fraction: float | None = None
    reserve_bytes: int = 0

    @cached_property
    def workload(self) -> Workload:
        """The jobs in the simulator's words; seconds are the pilot's, rough."""
        return Workload(tuple(map(self.training_job, self.partitions)))

    def training_job(self, part: Partition) -> TrainingJob:
        """Return a job in the simulator's words, in the room that these jobs leave for blocks."""
        return with_activations(self._training_job(part), part, self._arena_bytes, self._copies_at_memory_speed)

    @property
    def _arena_bytes(self) -> int:
        """What the smallest device leaves for state, boundaries and kept activations, beside its loading zone."""
        least_bytes = min(device.describe().memory_bytes for device in self.devices)
        arena_bytes = least_bytes - reserved_bytes(self.partitions) - self.reserve_bytes
        return int(arena_bytes * (1 - (self.loading_zone_fraction or 0.0)))

    @property
    def _copies_at_memory_speed(self) -> bool:
        return all(math.isinf(link.bytes_per_s) for device in self.cluster.devices for link in (device.h2d, device.d2h))

    @cached_property
    def cluster(self) -> Cluster:
        """The devices in the simulator's words; buffers of all models are set apart on each."""
        constant_bytes = sum(part.constant_bytes for part in self.partitions)
        devices = tuple(_less(device.describe(), constant_bytes + self.reserve_bytes) for device in self.devices)
        rates: dict[str, float] = {}
        for device in devices:
            if device.h2d.shared:
                rates[device.h2d.shared] = max(rates.get(device.h2d.shared, 0.0), device.h2d.bytes_per_s)
        buses = tuple(Bus(name, rate) for name, rate in rates.items())
        return Cluster(devices, host_cores=len(os.sched_getaffinity(0)), buses=buses)

    def limited(self, max_minibatches: int) -> Prepared:
        """Return the same jobs, stopped after so many mini-batches each, and evaluated on as many at most."""
        return replace(self, max_minibatches=max_minibatches)

    def _training_job(self, part: Partition) -> TrainingJob:
        lengths = part.job.lengths
        if self.max_minibatches is not None:
            limit = max(self.max_minibatches, 2 * part.job.accumulate)  # two steps at least, the first makes state
            lengths["evaluation_minibatches"] = min(limit, lengths["evaluation_minibatches"])
            if limit < (lengths["max_minibatches"] or lengths["minibatches"] * lengths["epochs"]):
                lengths["max_minibatches"] = limit
        shards = tuple(
            Shard(
                pilot.forward_s, pilot.backward_s, pilot.layout.parameter_bytes, pilot.layout.optimizer_bytes,
                pilot.output_bytes, pilot.working_bytes, forward_updates=bool(pilot.layout.buffers),
                evaluate_s=pilot.evaluate_s,
            )
            for pilot in part.shards
        )  # fmt: skip
        options, ties = part.job.step_options, part.ties
        host_updates = part.job.host_updates
        if host_updates != "no" and (ties or any(shard.forward_updates for shard in shards)):
            what = "weights tied across shards" if ties else "buffers that forwards change, as BatchNorm's"
            raise JobError(f"job {part.job.name!r}: has {what}; its updates must be on devices, not on the host.")
        update_units = host_updates == "no" and (options.in_units_of_its_own or ties is not None)
        if update_units or host_updates != "no":
            shards = tuple(
                replace(
                    shard, backward_s=max(0.0, shard.backward_s - pilot.step_s), update_s=pilot.step_s,
                    gradient_bytes=pilot.gradients.nbytes,
                )
                for shard, pilot in zip(shards, part.shards, strict=True)
            )  # fmt: skip
        return TrainingJob(
            part.job.name, shards, fused=self.fused, **lengths,
            input_bytes=part.pilot.input_bytes, target_bytes=part.pilot.target_bytes,
            update_units=update_units, host_updates=host_updates, accumulate=options.accumulate,
            tied_shards=ties.sharing_shards if ties else (), tied_bytes=ties.gradients.nbytes if ties else 0,
        )  # fmt: skip


def with_activations(job: TrainingJob, part: Partition, arena_bytes: int, at_memory_speed: bool) -> TrainingJob:
    """Return a job with what becomes of its activations: as its user says, else what most likely costs least.

    A model that fits a device with all its activations keeps them. Else it spills them where copies are at memory
    speed, which is sooner than running forward again, and recomputes them where a link is slower. No measured time
    decides, so that a plan finds the same workload when its jobs are prepared again. Whatever is said, what has no
    room beside its unit's other blocks recomputes.
    """
    asked = part.job.activation_mode
    if asked == "recompute":
        return job
    sizes = [pilot.activation_bytes for pilot in part.shards]
    whole = _keeping(job, "keep", sizes)
    fits = [unit_bytes(whole, neediest_unit(whole, shard)) <= arena_bytes for shard in range(len(sizes))]
    mode = asked
    if asked == "auto":
        fits_whole = (
            sum(block_bytes(whole, key) for key in (*state_keys(whole), *_activation_keys(whole))) <= arena_bytes
        )
        if not fits_whole and not at_memory_speed:
            return job
        mode = "keep" if fits_whole else "spill"
    sizes = [nbytes if fit else 0 for nbytes, fit in zip(sizes, fits, strict=True)]
    return _keeping(job, mode, sizes) if any(sizes) else job


def _keeping(job: TrainingJob, mode: ActivationMode, sizes: Sequence[int]) -> TrainingJob:
    shards = tuple(replace(shard, activation_bytes=n) for shard, n in zip(job.shards, sizes, strict=True))
    return replace(job, activation_mode=mode, shards=shards)


def _activation_keys(job: TrainingJob) -> list[BlockKey]:
    num_kept = len(job.shards) - (1 if job.fused else 0)
    return [BlockKey("a", job.name, shard, 0) for shard in range(num_kept)]


def prepare(
    jobs: Sequence[TorchJob],
    devices: Sequence[Device],
    *,
    loading_zone_fraction: float | None = None,
    fused: bool = True,
    pilots: Sequence[JobPilot] | None = None,
    partitioner: Partitioner = "greedy",
    reserve_bytes: int = 0,
) -> Prepared:
    """Cut the jobs for the devices and find out what each shard takes.

    partitioner: "greedy" takes the fewest shards that fit, "search" those that a simulation foretells to end soonest;
    measured seconds decide then, so a plan for another process to follow needs the `cuts` that were found in its jobs.

    Jobs that leave it open where their optimizers step all do so on devices, or all in host memory: where a simulation
    of a few mini-batches, at the pilots' rough seconds, ends sooner. pilots: of the same jobs, from an earlier call, to
    spare their runs. reserve_bytes: of every device, for jobs that `Control.add` will add: their models' constant
    tensors, and what their activation peaks are above these jobs'.

    Raises:
        ShardTooLarge: a layer fits no device. JobError: a job is unsupported. DeviceError: no devices.
        HydraError: there is no such partitioner; reserve_bytes is negative.
    """
    if reserve_bytes < 0:
        raise HydraError(f"reserve_bytes is {reserve_bytes}; it must not be negative.")
    if not devices:
        raise DeviceError("there are no devices to train on; give at least one.")
    if partitioner not in (known := get_args(Partitioner)):
        raise HydraError(f"partitioner is {partitioner!r}; it is {' or '.join(known)}.")
    check_apart(jobs)
    if any(job.update_on == "auto" for job in jobs):
        again = partial(
            prepare, devices=devices, loading_zone_fraction=loading_zone_fraction, fused=fused, partitioner=partitioner,
            reserve_bytes=reserve_bytes,
        )  # fmt: skip
        return _sooner(jobs, again)
    memory_bytes = min(device.describe().memory_bytes for device in devices) - reserve_bytes
    pilots = [JobPilot(job, threads_of(devices)) for job in jobs] if pilots is None else pilots
    parts = partition(pilots, memory_bytes, loading_zone_fraction=loading_zone_fraction)

    def made(parts: Sequence[Partition]) -> Prepared:
        zone = loading_zone_fraction
        return Prepared(tuple(parts), tuple(devices), fused, loading_zone_fraction=zone, reserve_bytes=reserve_bytes)

    prepared = made(parts)
    assert prepared.workload  # names must differ
    if partitioner == "greedy":
        return prepared
    return searched(prepared, made)


def _sooner(jobs: Sequence[TorchJob], prepare_all: Callable[[list[TorchJob]], Prepared]) -> Prepared:
    """Prepare jobs with updates on devices and in host memory; return what is predicted to end sooner.

    Raises:
        HydraError: neither can be run; why not on devices.
    """
    found: list[tuple[float, Prepared]] = []
    refused: list[HydraError] = []
    places: tuple[UpdateOn, ...] = ("device", "host")
    core_bytes_per_s = core_copy_bytes_per_s()
    for place in places:
        try:
            prepared = prepare_all([replace(job, update_on=place) if job.update_on == "auto" else job for job in jobs])
            found.append((foretold_s(prepared, core_bytes_per_s), prepared))
        except HydraError as reason:
            refused.append(reason)
    if not found:
        raise refused[0]
    return min(found, key=lambda tried: tried[0])[1]


def threads_of(devices: Sequence[Device]) -> int:
    """Return the threads with which pilots run: one, as emulated devices do, or torch's own."""
    return 1 if any(device.describe().on_host for device in devices) else torch.get_num_threads()


def check_apart(jobs: Sequence[TorchJob]) -> None:
    """Make sure that no two jobs train the same parameters.

    Raises:
        JobError: two do.
    """
    owner: dict[int, str] = {}
    for job in jobs:
        for parameter in job.module.parameters():
            if parameter.requires_grad and owner.setdefault(id(parameter), job.name) != job.name:
                raise JobError(
                    f"jobs {owner[id(parameter)]!r} and {job.name!r} train the same model; give each its own."
                )


def _less(device: SimulatedDevice, constant_bytes: int) -> SimulatedDevice:
    return replace(device, memory_bytes=max(1, device.memory_bytes - constant_bytes))
