"""FSDP2 with CPU offload: pieces of every layer on each rank, gathered while the layer is used."""

from __future__ import annotations

from typing import Any

from experiments.models import Block
from experiments.peers.contender import Options
from experiments.peers.distributed import DataParallelContender
from experiments.workloads import GptSpec


class FSDP2Offload(DataParallelContender):
    """Each block is wrapped, and the whole; each rank trains half of the mini-batch and updates its half of the state.

    Source: torch.distributed.fsdp.fully_shard with CPUOffloadPolicy(pin_memory=False) on a CPU mesh.
    """

    registered_name = "fsdp2-offload"

    def wrap(self, spec: GptSpec, options: Options) -> tuple[Any, Any]:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard

        mesh = init_device_mesh("cpu", (self.rank.count,))
        policy = CPUOffloadPolicy(pin_memory=False)
        model = self.task.workload.model(spec)
        for layer in model:
            if isinstance(layer, Block):
                fully_shard(layer, mesh=mesh, offload_policy=policy)
        fully_shard(model, mesh=mesh, offload_policy=policy)
        return model, self.optimizer(model)
