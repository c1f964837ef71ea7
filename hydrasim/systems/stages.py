"""Cuts a model's shards into pipeline stages, one a device: contiguous, in memory, the slowest as fast as can be."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from hydrasim.cluster import Cluster
from hydrasim.systems.base import Build, System
from hydrasim.systems.passes import saved_bytes
from hydrasim.workload import TrainingJob

if TYPE_CHECKING:
    from collections.abc import Callable

Stage = range  # of shards
Places = tuple[tuple[int, ...], ...]  # by stage, the devices that hold it: one a replica


@dataclass(frozen=True)
class Staged(System):
    """A system that spreads a job's shards over devices, a stage each at most; there they stay until it is trained."""

    @abstractmethod
    def activation_bytes(self, job: TrainingJob, stage: Stage, order: int, places: Places) -> int:
        """Return what the order-th stage needs beside its state and gradients."""

    @abstractmethod
    def train(self, build: Build, minibatch: int) -> None:
        """Emit the commands of one mini-batch, as `minibatch` is to, with the job's state in place."""

    def minibatch(self, build: Build, minibatch: int) -> None:
        job, places = build.job, self.places(build.job, build.cluster, build.devices)
        sizes = [
            sum(job.shards[shard].state_bytes for shard in stage)
            for stage in self.stages(job, build.cluster, build.devices)
        ]
        if not minibatch:
            build.move_in({device: size for place, size in zip(places, sizes, strict=False) for device in place})
        self.train(build, minibatch)
        if minibatch == job.num_minibatches - 1:
            build.move_out({place[0]: size for place, size in zip(places, sizes, strict=False)})

    def places(self, job: TrainingJob, cluster: Cluster, devices: Sequence[int]) -> Places:
        """Return where stages may lie, first to last; of few shards only the first places are used."""
        return tuple((device,) for device in devices)

    def stages(self, job: TrainingJob, cluster: Cluster, devices: Sequence[int]) -> tuple[Stage, ...]:
        """Return the shards of each stage."""
        return _stages(self, job, cluster, self.places(job, cluster, devices))

    def memory_bytes(self, job: TrainingJob, cluster: Cluster, devices: Sequence[int]) -> list[int]:
        places, needs = self.places(job, cluster, devices), dict.fromkeys(devices, 0)
        for order, stage in enumerate(self.stages(job, cluster, devices)):
            needs |= dict.fromkeys(places[order], self.stage_bytes(job, stage, order, places))
        return list(needs.values())

    def fits(self, job: TrainingJob, cluster: Cluster, places: Places) -> bool:
        """Tell whether stages in those places have room for the job."""
        return all(
            self.stage_bytes(job, stage, order, places) <= cluster.devices[device].memory_bytes
            for order, stage in enumerate(_stages(self, job, cluster, places))
            for device in places[order]
        )

    def stage_bytes(self, job: TrainingJob, stage: Stage, order: int, places: Places) -> int:
        """Return what the order-th stage needs of its device."""
        state = sum(job.shards[shard].state_bytes + job.shards[shard].parameter_bytes for shard in stage)
        return state + self.activation_bytes(job, stage, order, places)


def input_bytes(job: TrainingJob, shard: int) -> int:
    """Return what a shard's forward is given, for a whole mini-batch."""
    return job.shards[shard - 1].output_bytes if shard else job.input_bytes


def fed_bytes(job: TrainingJob, stage: Stage, num_parts: int) -> int:
    """Return what the host loads to a stage of a part of a mini-batch: inputs to the first, targets to the last."""
    inputs = 0 if stage.start else job.input_bytes
    targets = job.target_bytes if stage.stop == len(job.shards) else 0
    return part_of(inputs, num_parts) + part_of(targets, num_parts)


def temporary_bytes(job: TrainingJob, stage: Stage) -> int:
    """Return the peak of a stage's units over its activations and gradients, for a whole mini-batch."""
    return max(0, *(job.shards[s].working_bytes - saved_bytes(job, s) - job.shards[s].parameter_bytes for s in stage))


def part_of(nbytes: int, num_parts: int) -> int:
    """Return the bytes of one of so many equal parts of a mini-batch."""
    return -(-nbytes // num_parts)


def balance(
    num_shards: int, num_stages: int, stage_s: Callable[[int, Stage], float], fits: Callable[[int, Stage], bool]
) -> tuple[Stage, ...]:
    """Return contiguous stages of at least one shard, such that the longest takes least; stages that fit if any do.

    stage_s: the seconds that the k-th stage takes with these shards, more with more of them; fits: whether it
    has room for them. With fewer shards than stages there are as many stages as shards. When nothing fits, the
    stages of least time are returned, so that whoever asks can say what they lack.

    Source: the linear partition problem by dynamic programming over (stages, shards).
    """
    count = min(num_stages, num_shards)
    cuts = _best_cuts(num_shards, count, stage_s, fits) or _best_cuts(num_shards, count, stage_s, lambda *_: True)
    assert cuts is not None
    return tuple(range(start, end) for start, end in zip(cuts, [*cuts[1:], num_shards], strict=True))


def _best_cuts(
    num_shards: int, count: int, stage_s: Callable[[int, Stage], float], fits: Callable[[int, Stage], bool]
) -> list[int] | None:
    """Return where each stage begins; None when no stages fit."""
    best: list[dict[int, tuple[float, int]]] = [{0: (0.0, 0)}]  # by stage: shards so far -> (longest, where it began)
    for stage in range(count):
        reached: dict[int, tuple[float, int]] = {}
        for end in range(stage + 1, num_shards - (count - stage - 1) + 1):
            least_s = math.inf
            for start in range(end - 1, stage - 1, -1):
                shards = range(start, end)
                own_s = stage_s(stage, shards)
                if own_s >= least_s:
                    break  # and longer stages take longer still
                longest_s = max(own_s, best[stage].get(start, (math.inf, 0))[0])
                if longest_s < least_s and fits(stage, shards):
                    least_s = longest_s
                    reached[end] = longest_s, start
        best.append(reached)
    if num_shards not in best[count]:
        return None
    cuts, end = [], num_shards
    for stage in range(count, 0, -1):
        end = best[stage][end][1]
        cuts.append(end)
    return cuts[::-1]


@lru_cache(maxsize=256)  # asked for every mini-batch
def _stages(system: Staged, job: TrainingJob, cluster: Cluster, places: Places) -> tuple[Stage, ...]:
    """Balance a job's stages over places; of replicas of a stage, the slowest and the smallest device count."""
    ends_s = [0.0]  # of forward and backward passes one after the other, at speed 1
    for shard in job.shards:
        ends_s.append(ends_s[-1] + shard.forward_s + shard.backward_s)
    speed = [min(cluster.devices[device].speed for device in place) for place in places]
    room = [min(cluster.devices[device].memory_bytes for device in place) for place in places]
    return balance(
        len(job.shards),
        len(places),
        lambda order, stage: (ends_s[stage.stop] - ends_s[stage.start]) / speed[order],
        lambda order, stage: system.stage_bytes(job, stage, order, places) <= room[order],
    )
