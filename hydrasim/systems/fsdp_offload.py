"""PyTorch FSDP2 with CPU offload: the next layer is gathered while one computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrasim.systems.fsdp import implicit_gathering
from hydrasim.systems.sharded import ShardedOffload, Use

if TYPE_CHECKING:
    from hydrasim.workload import TrainingJob


@dataclass(frozen=True)
class FSDPOffload(ShardedOffload):
    """One job at a time on all devices, each layer wrapped in `fully_shard` with `CPUOffloadPolicy`.

    prefetch_layers: how many layers are gathered ahead of the one that computes; see `implicit_gathering`. In mixed
    precision a rank casts its piece when it has it (all_gather_inputs in _fsdp_param.py), and reduced gradients back
    before it stores them (foreach_reduce), so that copies to and from the host are in the precision of the parameters.

    Source: torch 2.13 distributed/fsdp/_fully_shard: CPUOffloadPolicy in _fsdp_api.py, unshard, wait_for_unshard
    and post_backward in _fsdp_param_group.py (one reduce-scatter input outlives its layer), foreach_reduce in
    _fsdp_collectives.py; pytorch/pytorch pull request 120256, where the step on the host dominates too.
    """

    registered_name = "fsdp-offload"
    prefetch_layers: int = 1

    def __post_init__(self) -> None:
        self.require(0, "prefetch_layers")

    def gathering(self, job: TrainingJob, num_ranks: int) -> tuple[list[Use], int]:
        return implicit_gathering(self.layer_bytes(job), num_ranks, self.prefetch_layers)
