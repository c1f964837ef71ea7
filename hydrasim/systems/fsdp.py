"""PyTorch FSDP2: every rank keeps a piece of each layer on its device, and the next layer is gathered meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrasim.systems.base import job_state_bytes
from hydrasim.systems.sharded import Sharded, Use, gathering, piece

if TYPE_CHECKING:
    from hydrasim.cluster import Cluster
    from hydrasim.systems.base import Build
    from hydrasim.workload import TrainingJob


@dataclass(frozen=True)
class FSDP(Sharded):
    """One job at a time on all devices, each layer wrapped in `fully_shard`: 1/n of all state lies on each device.

    A rank updates its piece; that is the part of the update that its part of the backward holds. Pieces come from host
    memory when a job begins, and go back when it ends. A single rank copies layers within its device, which takes
    memory and here no time.

    prefetch_layers: how many layers are gathered ahead of the one that computes; see `implicit_gathering`. In mixed
    precision pieces, and gradients once they are reduced, stay in the precision of the parameters.

    Source: torch 2.13 distributed/fsdp/_fully_shard: unshard, wait_for_unshard and post_backward in
    _fsdp_param_group.py (one reduce-scatter input outlives its layer); Zhao et al., PyTorch FSDP (VLDB 2023).
    """

    registered_name = "fsdp"
    prefetch_layers: int = 1

    def __post_init__(self) -> None:
        self.require(0, "prefetch_layers")

    def gathering(self, job: TrainingJob, num_ranks: int) -> tuple[list[Use], int]:
        return implicit_gathering(self.layer_bytes(job), num_ranks, self.prefetch_layers)

    def gather(self, build: Build, shard: int, minibatch: int, after: Sequence[int]) -> list[int]:
        return self.exchange(build, shard, minibatch, after)

    def scatter(self, build: Build, shard: int, minibatch: int, computes: list[int]) -> list[int]:
        return self.exchange(build, shard, minibatch, computes)

    def memory_bytes(self, job: TrainingJob, cluster: Cluster, devices: Sequence[int]) -> list[int]:
        kept = job_state_bytes(job) + sum(shard.parameter_bytes for shard in job.shards)  # and gradients
        return [piece(kept, len(devices)) + need for need in super().memory_bytes(job, cluster, devices)]

    def minibatch(self, build: Build, minibatch: int) -> None:
        pieces = dict.fromkeys(build.devices, piece(job_state_bytes(build.job), len(build.devices)))
        if not minibatch:
            build.move_in(pieces)
        build.barrier = frozenset(self.there_and_back(build, minibatch))
        if minibatch == build.job.num_minibatches - 1:
            build.move_out(pieces)


def implicit_gathering(layer_bytes: list[int], num_ranks: int, prefetch_layers: int) -> tuple[list[Use], int]:
    """Return when FSDP gathers layers, so many ahead of the one that computes; its implicit prefetch is 1.

    A single rank has none: its copies go on the stream that computes. The last layer stays for its backward
    (reshard_after_forward=False, as is advised in pytorch/torchtitan pull request 446).
    """
    ahead = prefetch_layers if num_ranks > 1 else 0
    return gathering(layer_bytes, lambda uses, *_: uses <= ahead, lambda shard: shard == len(layer_bytes) - 1)
