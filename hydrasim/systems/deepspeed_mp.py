"""Model parallelism without spilling: layers spread over all devices, of which one computes at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrasim.systems.base import Build, System
from hydrasim.systems.passes import saved_bytes
from hydrasim.systems.stages import Stage, balance
from hydrasim.workload import Phase, TrainingJob

if TYPE_CHECKING:
    from hydrasim.cluster import Cluster


@dataclass(frozen=True)
class DeepspeedMP(System):
    """One job at a time, its layers resident on all devices; activations hop from stage to stage and back.

    recompute: keep only each shard's input, and run its forward again before its backward.

    Source: "PyTorch Distributed" and "DeepSpeed MP" of the paper's Fig. 8.
    """

    registered_name = "deepspeed-mp"
    recompute: bool = False

    def memory_bytes(self, job: TrainingJob, cluster: Cluster, devices: Sequence[int]) -> list[int]:
        stages = self.stages(job, cluster, devices)
        needs = [self._stage_bytes(job, stage) for stage in stages]
        return needs + [0] * (len(devices) - len(stages))

    def stages(self, job: TrainingJob, cluster: Cluster, devices: Sequence[int]) -> list[Stage]:
        """Return which shards each device holds."""
        return balance(
            len(job.shards),
            len(devices),
            lambda k, stage: (
                sum(job.shards[s].forward_s + job.shards[s].backward_s for s in stage)
                / cluster.devices[devices[k]].speed
            ),
            lambda k, stage: self._stage_bytes(job, stage) <= cluster.devices[devices[k]].memory_bytes,
        )

    def minibatch(self, build: Build, minibatch: int) -> None:
        stages = self.stages(build.job, build.cluster, build.devices)
        job, passes = build.job, build.passes
        after = build.load(build.devices[0], job.input_bytes, minibatch, [build.fetch(minibatch)])
        for order, stage in enumerate(stages):
            device = build.devices[order]
            for shard in stage:
                seconds = passes.forward_s(shard, device, minibatch)
                after = build.compute(device, Phase.FORWARD, shard, minibatch, seconds, [after])
            if order + 1 < len(stages):
                nbytes = job.shards[stage[-1]].output_bytes
                after = build.send(device, build.devices[order + 1], nbytes, minibatch, [after], stage[-1])
        for order in range(len(stages) - 1, -1, -1):
            device = build.devices[order]
            for shard in reversed(stages[order]):
                seconds = passes.backward_s(shard, device, minibatch)
                seconds += passes.forward_s(shard, device, minibatch) if self.recompute else 0.0
                after = build.compute(device, Phase.BACKWARD, shard, minibatch, seconds, [after])
            if order:
                nbytes = job.shards[stages[order - 1][-1]].output_bytes
                after = build.send(device, build.devices[order - 1], nbytes, minibatch, [after], stages[order][0])
        build.barrier = frozenset([after])

    def _stage_bytes(self, job: TrainingJob, stage: Stage) -> int:
        """Return a stage's state and gradients, what its forwards leave, and one shard's peak."""
        state = sum(job.shards[s].state_bytes + job.shards[s].parameter_bytes for s in stage)
        left = sum(job.shards[s].output_bytes if self.recompute else saved_bytes(job, s) for s in stage)
        return state + left + max(job.shards[s].working_bytes for s in stage)
