"""Model and data parallelism: replicas of a model-parallel job train on parts of each mini-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrasim.errors import SystemRefused
from hydrasim.systems.base import Build
from hydrasim.systems.deepspeed_mp import DeepspeedMP
from hydrasim.systems.stages import Places, Stage

if TYPE_CHECKING:
    from hydrasim.cluster import Cluster
    from hydrasim.workload import TrainingJob


@dataclass(frozen=True)
class DeepspeedMPData(DeepspeedMP):
    """One job at a time, as replicas that train model-parallel on equal parts of a mini-batch.

    After its backward, a stage's gradients are all-reduced among its replicas; nothing of that overlaps the
    stage's own backward, only those of the stages before it. Passes through a part of a mini-batch take that
    part of the time, updates included: that smaller kernels fill a device less is not modelled.

    replicas: None for the most that divide the devices and leave each replica enough of them. bucket_bytes: up to
    so many bytes of gradients are copied into one buffer to be reduced.

    Source: "DeepSpeed model+data" of the paper's Fig. 8; DeepSpeed's pipeline engine turns the all-reduce
    within the backward off and has one instruction for it after the last backward (runtime/pipe/engine.py,
    schedule.py), in buckets of 500 million elements.
    """

    registered_name = "deepspeed-mp-data"
    replicas: int | None = None
    bucket_bytes: int = 4 * 500_000_000

    def __post_init__(self) -> None:
        self.require(1, "bucket_bytes")

    def places(self, job: TrainingJob, cluster: Cluster, devices: Sequence[int]) -> Places:
        count = len(devices)
        divisors = [number for number in range(count, 0, -1) if count % number == 0]
        if self.replicas is not None:
            if self.replicas not in divisors:
                allowed = ", ".join(map(str, reversed(divisors)))
                raise SystemRefused(f"{self.name}: replicas is {self.replicas}; {count} devices divide into {allowed}.")
            return _places(devices, self.replicas)
        tried = (_places(devices, replicas) for replicas in divisors)
        return next((places for places in tried if self.fits(job, cluster, places)), _places(devices, 1))

    def train(self, build: Build, minibatch: int) -> None:
        job, places = build.job, self.places(build.job, build.cluster, build.devices)
        stages = self.stages(job, build.cluster, build.devices)
        replicas = list(zip(*places, strict=True))
        fetched = build.fetch(minibatch)
        ends = [self.there_and_back(build, minibatch, devices, stages, fetched, len(replicas)) for devices in replicas]
        reduced: list[int] = []
        for order in reversed(range(len(stages)) if len(replicas) > 1 else ()):
            gradients = sum(job.shards[shard].parameter_bytes for shard in stages[order])
            backwards = [own[order] for own in ends]
            reduced += build.collective(
                gradients, minibatch, backwards, stages[order][0], rounds=2, devices=places[order]
            )
        build.barrier = frozenset(reduced or ends[0][:1])

    def activation_bytes(self, job: TrainingJob, stage: Stage, order: int, places: Places) -> int:
        """Return a part's activations, or the bucket that gradients are reduced in when these are gone."""
        activations = super().activation_bytes(job, stage, order, places)
        gradients = sum(job.shards[shard].parameter_bytes for shard in stage)
        return max(activations, min(gradients, self.bucket_bytes)) if len(places[0]) > 1 else activations


def _places(devices: Sequence[int], replicas: int) -> Places:
    """Return by stage the device of every replica; a replica's devices are neighbours."""
    num_stages = len(devices) // replicas
    return tuple(tuple(devices[stage::num_stages]) for stage in range(num_stages))
