"""Ours: executor.train on two emulated devices that hold half of a model's state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from statistics import median
from typing import Any, ClassVar

import torch

from executor import CpuDevice, DevicePool, Prepared, TorchJob, train
from executor.job import UpdateOn
from executor.partition import Partition, partition_arena, reserved_bytes
from executor.pilot import JobPilot
from executor.prepare import Partitioner
from executor.search import searched
from experiments.orchestration import orchestration_fraction
from experiments.peers.contender import Contender, Losses, Options, Rank, Run, Task
from experiments.peers.workloads import PeerWorkload

NUM_DEVICES = 2


class Ours(Contender):
    """A device has `budget_fraction` of the largest model's state, and the activation peak; copies at memory speed.

    What follows the first run goes on from its weights and optimizer state, each time from the same ones. A run's time
    is the makespan: loading the first shards and writing back the last ones is in it, setting up processes is not.
    """

    registered_name = "ours"
    num_ranks = 1
    num_devices = NUM_DEVICES
    update_on: ClassVar[UpdateOn] = "device"
    partitioner: ClassVar[Partitioner] = "greedy"
    exact = True

    def __init__(self, task: Task, rank: Rank) -> None:
        super().__init__(task, rank)
        self.policy = task.policy
        self._pool: DevicePool | None = None
        self._orchestration: list[float] = []  # its share of each timed run

    def begin(self, options: Options) -> None:
        workload = self.task.workload
        jobs = [replace(workload.job(spec, self.task.optimizer), update_on=self.update_on) for spec in workload.specs]
        self.prepared = prepare_for_peers(workload, self.task.optimizer, jobs, self.num_devices, self.partitioner)

    def run(self, minibatches: Mapping[str, int]) -> Run:
        if self._pool is None:
            return self._warm_up(minibatches)
        return self._train(minibatches, self._pool, update_models=False)

    def train(self, minibatches: Mapping[str, int]) -> Losses:
        return self.run(minibatches).losses

    def memory_bytes(self) -> int:
        return self.prepared.devices[0].memory_bytes  # type: ignore[attr-defined,no-any-return]

    def facts(self) -> dict[str, Any]:
        return {
            "policy": self.policy,
            "device_memory_bytes": self.memory_bytes(),
            "state_bytes": self.task.workload.state_bytes(self.task.optimizer),
            "activation_peak_bytes": reserved_bytes(self.prepared.partitions),
            "num_shards": {part.job.name: len(part.shards) for part in self.prepared.partitions},
            "orchestration_fraction": median(self._orchestration) if self._orchestration else None,
        }

    def _warm_up(self, minibatches: Mapping[str, int]) -> Run:
        """Train from the first weights; the jobs of later runs begin where this ends."""
        self._pool = DevicePool(self.prepared.devices)
        run = self._train(minibatches, self._pool, update_models=True)
        self._orchestration.clear()
        parts = [
            replace(part, job=_continued(part.job, self._states[part.job.name])) for part in self.prepared.partitions
        ]
        self.prepared = replace(self.prepared, partitions=tuple(parts))
        return run

    def _train(self, minibatches: Mapping[str, int], pool: DevicePool, *, update_models: bool) -> Run:
        prepared = stopped_after(self.prepared, minibatches)
        result = train(prepared, policy=self.policy, pool=pool, update_models=update_models, strict=True)
        self._orchestration.append(orchestration_fraction(result.timeline))
        self._states = {name: job.optimizer_state for name, job in result.jobs.items()}
        return Run(
            0.0,
            result.makespan_s,
            {name: list(job.losses) for name, job in result.jobs.items()},
            result.timeline.header["core_s"],
        )


def _continued(job: TorchJob, state: Mapping[str, Mapping[str, torch.Tensor]]) -> TorchJob:
    """Return a job whose optimizer goes on from a state, by parameter name."""
    optimizer = job.optimizer(job.module.parameters())  # type: ignore[operator]
    for name, parameter in job.module.named_parameters():
        if name in state:
            optimizer.state[parameter] = dict(state[name])
    return replace(job, optimizer=optimizer)


def prepare_for_peers(
    workload: PeerWorkload,
    optimizer: str,
    jobs: list[TorchJob],
    num_devices: int = NUM_DEVICES,
    partitioner: Partitioner = "greedy",
) -> Prepared:
    """Cut the jobs for devices of the workload's budget."""
    arena_bytes = int(workload.budget_fraction * workload.state_bytes(optimizer))

    def made(parts: list[Partition]) -> Prepared:
        return Prepared(tuple(parts), (CpuDevice(arena_bytes + reserved_bytes(parts)),) * num_devices)

    prepared = made(partition_arena([JobPilot(job) for job in jobs], arena_bytes))
    return prepared if partitioner == "greedy" else searched(prepared, made)


def stopped_after(prepared: Prepared, minibatches: Mapping[str, int]) -> Prepared:
    """Return the same jobs, each stopped after so many mini-batches."""
    parts = [replace(part, job=replace(part.job, max_steps=minibatches[part.job.name])) for part in prepared.partitions]
    return replace(prepared, partitions=tuple(parts))
