"""PyTorch DistributedDataParallel: the whole model on each device, gradients all-reduced under the backward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrasim.systems.base import Build, System, job_state_bytes
from hydrasim.systems.sharded import activation_bytes, load_inputs, run_pass
from hydrasim.workload import Phase, TrainingJob

if TYPE_CHECKING:
    from hydrasim.cluster import Cluster


@dataclass(frozen=True)
class DDP(System):
    """One job at a time, a copy of it on every device, each training 1/n of the mini-batch.

    bucket_bytes: gradients are all-reduced as soon as so many are there, a layer's (a shard's) at once.
    bucket_view: gradients lie in the buckets (gradient_as_bucket_view); otherwise buckets weigh as much again.
    recompute: keep only each layer's input, and run its forward again before its backward.

    Each rank updates the whole model. The update is part of the backward's seconds, of which a rank takes 1/n, since
    profiles have no number for it alone: DDP comes out somewhat too fast. On one device nothing is exchanged. Gradients
    are reduced as the workload states them, in fp32 under autocast: there is no bf16_compress_hook.

    Source: torch 2.13 nn/parallel/distributed.py (buckets of 25 MiB); Li et al., PyTorch Distributed (VLDB 2020).
    """

    registered_name = "ddp"
    bucket_bytes: int = 25 << 20
    bucket_view: bool = False
    recompute: bool = False

    def __post_init__(self) -> None:
        self.require(1, "bucket_bytes")

    def memory_bytes(self, job: TrainingJob, cluster: Cluster, devices: Sequence[int]) -> list[int]:
        copies = 2 if self.bucket_view else 3  # of the parameters: themselves, their gradients, the buckets
        state = sum(copies * shard.parameter_bytes + shard.optimizer_bytes for shard in job.shards)
        return [state + activation_bytes(job, len(devices), recompute=self.recompute)] * len(devices)

    def minibatch(self, build: Build, minibatch: int) -> None:
        shards, state = build.job.shards, job_state_bytes(build.job)
        if not minibatch:
            build.move_in(dict.fromkeys(build.devices, state))
        before = load_inputs(build, minibatch)
        for shard in range(len(shards)):
            before = self._run(build, Phase.FORWARD, shard, minibatch, before)
        full, reduced = 0, before
        for shard in reversed(range(len(shards))):
            before = self._run(build, Phase.BACKWARD, shard, minibatch, before)
            full += shards[shard].parameter_bytes
            if len(build.devices) > 1 and full and (full >= self.bucket_bytes or not shard):
                reduced = build.collective(full, minibatch, before, shard, rounds=2)
                full = 0
        build.barrier = frozenset([*before, *reduced])
        if minibatch == build.job.num_minibatches - 1:
            build.move_out({build.devices[0]: state})

    def _run(self, build: Build, phase: Phase, shard: int, minibatch: int, before: list[int]) -> list[int]:
        recompute = self.recompute and phase is Phase.BACKWARD
        return run_pass(build, phase, shard, minibatch, [[number] for number in before], recompute=recompute)
