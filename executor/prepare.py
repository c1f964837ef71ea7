"""Turns user jobs and devices into the simulator's workload and cluster, cut and measured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

from executor.devices import Device
from executor.errors import DeviceError, JobError
from executor.job import TorchJob
from executor.partition import Partition, partition
from executor.pilot import JobPilot
from hydrasim.cluster import Bus, Cluster
from hydrasim.cluster import Device as SimulatedDevice
from hydrasim.workload import Shard, TrainingJob, Workload


@dataclass(frozen=True)
class Prepared:
    """Jobs cut for their devices, ready to profile, simulate, plan and execute."""

    partitions: tuple[Partition, ...]
    devices: tuple[Device, ...]
    fused: bool = True
    max_minibatches: int | None = None

    @cached_property
    def workload(self) -> Workload:
        """The jobs in the simulator's words; seconds are the pilot's, rough."""
        return Workload(tuple(self._training_job(part) for part in self.partitions))

    @cached_property
    def cluster(self) -> Cluster:
        """The devices in the simulator's words; buffers of all models are set apart on each."""
        constant_bytes = sum(part.constant_bytes for part in self.partitions)
        devices = tuple(_less(device.describe(), constant_bytes) for device in self.devices)
        rates: dict[str, float] = {}
        for device in devices:
            if device.h2d.shared:
                rates[device.h2d.shared] = max(rates.get(device.h2d.shared, 0.0), device.h2d.bytes_per_s)
        buses = tuple(Bus(name, rate) for name, rate in rates.items())
        return Cluster(devices, host_cores=len(os.sched_getaffinity(0)), buses=buses)

    def limited(self, max_minibatches: int) -> Prepared:
        """Return the same jobs, stopped after so many mini-batches each."""
        return replace(self, max_minibatches=max_minibatches)

    def _training_job(self, part: Partition) -> TrainingJob:
        minibatches, epochs = part.job.schedule
        if self.max_minibatches is not None and self.max_minibatches < minibatches * epochs:
            minibatches, epochs = self.max_minibatches, 1
        shards = tuple(
            Shard(
                pilot.forward_s, pilot.backward_s, pilot.layout.parameter_bytes, pilot.layout.optimizer_bytes,
                pilot.output_bytes, pilot.working_bytes,
            )
            for pilot in part.shards
        )  # fmt: skip
        return TrainingJob(
            part.job.name, shards, minibatches, epochs, self.fused,
            input_bytes=part.pilot.input_bytes, target_bytes=part.pilot.target_bytes,
        )  # fmt: skip


def prepare(
    jobs: Sequence[TorchJob],
    devices: Sequence[Device],
    *,
    loading_zone_fraction: float | None = None,
    fused: bool = True,
    pilots: Sequence[JobPilot] | None = None,
) -> Prepared:
    """Cut the jobs for the devices and find out what each shard takes.

    pilots: of the same jobs, from an earlier call, to spare their runs.

    Raises:
        ShardTooLarge: a layer fits no device. JobError: a job is unsupported. DeviceError: no devices.
    """
    if not devices:
        raise DeviceError("there are no devices to train on; give at least one.")
    _check_apart(jobs)
    memory_bytes = min(device.describe().memory_bytes for device in devices)
    pilots = [JobPilot(job) for job in jobs] if pilots is None else pilots
    parts = partition(pilots, memory_bytes, loading_zone_fraction=loading_zone_fraction)
    prepared = Prepared(tuple(parts), tuple(devices), fused)
    assert prepared.workload  # names must differ
    return prepared


def _check_apart(jobs: Sequence[TorchJob]) -> None:
    owner: dict[int, str] = {}
    for job in jobs:
        for parameter in job.module.parameters():
            if parameter.requires_grad and owner.setdefault(id(parameter), job.name) != job.name:
                raise JobError(
                    f"jobs {owner[id(parameter)]!r} and {job.name!r} train the same model; give each its own."
                )


def _less(device: SimulatedDevice, constant_bytes: int) -> SimulatedDevice:
    return replace(device, memory_bytes=max(1, device.memory_bytes - constant_bytes))
