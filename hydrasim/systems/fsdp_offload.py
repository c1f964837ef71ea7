"""PyTorch FSDP2 with CPU offload: the next layer is gathered while one computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrasim.systems.sharded import ShardedOffload, Use, gathering

if TYPE_CHECKING:
    from hydrasim.workload import TrainingJob


@dataclass(frozen=True)
class FSDPOffload(ShardedOffload):
    """One job at a time on all devices, each layer wrapped in `fully_shard` with `CPUOffloadPolicy`.

    prefetch_layers: how many layers are gathered ahead of the one that computes; FSDP's implicit prefetch is 1. A
    single rank has none: its copies go on the stream that computes. The last layer stays for its backward
    (reshard_after_forward=False, as is advised).

    Source: torch 2.13 distributed/fsdp/_fully_shard: CPUOffloadPolicy in _fsdp_api.py, unshard, wait_for_unshard
    and post_backward in _fsdp_param_group.py (one reduce-scatter input outlives its layer), foreach_reduce in
    _fsdp_collectives.py; pytorch/pytorch pull request 120256, where the step on the host dominates too;
    pytorch/torchtitan pull request 446 on the last layer.
    """

    registered_name = "fsdp-offload"
    prefetch_layers: int = 1

    def __post_init__(self) -> None:
        self.require(0, "prefetch_layers")

    def gathering(self, job: TrainingJob, num_ranks: int) -> tuple[list[Use], int]:
        ahead = self.prefetch_layers if num_ranks > 1 else 0
        return gathering(
            [shard.parameter_bytes for shard in job.shards],
            lambda uses, *_: uses <= ahead,
            lambda shard: shard == len(job.shards) - 1,
        )
