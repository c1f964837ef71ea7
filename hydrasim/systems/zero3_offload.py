"""DeepSpeed ZeRO-3 with parameters and optimizer offloaded to the host: a window of bytes is gathered ahead."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from hydrasim.systems.sharded import ShardedOffload, Use, gathering

if TYPE_CHECKING:
    from hydrasim.workload import TrainingJob


@dataclass(frozen=True)
class Zero3Offload(ShardedOffload):
    """One job at a time on all devices, data parallel; on one device it is ZeRO-Offload with offloaded parameters.

    prefetch_bytes: gather on while less than this is gathered ahead of its use; 0 for no prefetch. The last layer
    may exceed it, as a layer moves whole. max_live_bytes: and while less than this is on the device. reuse_bytes:
    keep a layer for its backward if fewer bytes are used in between. The defaults are DeepSpeed's, at 4 bytes an
    element (5e7, 1e9 and 1e9 elements); the first and last must be lowered on small devices, as there. In mixed
    precision half the bytes are as many elements. Host memory then has parameters in half beside fp32 masters, and
    ranks load pieces and store gradients in half (releases that cast gradients on the device store twice that).

    Not modelled: DeepSpeed works by module and counts the window anew at each, so it may run further ahead, up to
    max_live_bytes; parameters below stage3_param_persistence_threshold stay on the device. Gradients are reduced
    layer by layer, as with a reduce bucket no larger than a layer; a default bucket of 5e8 elements needs 2 GB and
    leaves a small model's reduction to the end. The optimizer's sub-groups follow each other, as one step.

    Source: deepspeed/runtime/zero/config.py, partitioned_param_coordinator.py (fetch_sub_module and
    __params_to_release) and stage3.py; Rajbhandari et al., ZeRO-Infinity (2021). That the step is not hidden:
    deepspeedai/DeepSpeed issue 6834.
    """

    registered_name = "zero3-offload"
    casts_on_host: ClassVar[bool] = True
    prefetch_bytes: int = 200_000_000
    max_live_bytes: int = 4_000_000_000
    reuse_bytes: int = 4_000_000_000

    def __post_init__(self) -> None:
        self.require(0, "prefetch_bytes", "max_live_bytes", "reuse_bytes")

    def gathering(self, job: TrainingJob, num_ranks: int) -> tuple[list[Use], int]:
        layer_bytes = self.layer_bytes(job)
        passes = 3 if self.recompute else 2  # through each layer from one's forward to its backward

        def may_prefetch(_uses: int, ahead_bytes: int, live_bytes: int) -> bool:
            return ahead_bytes < self.prefetch_bytes and live_bytes < self.max_live_bytes

        return gathering(
            layer_bytes, may_prefetch, lambda shard: passes * sum(layer_bytes[shard + 1 :]) < self.reuse_bytes
        )
