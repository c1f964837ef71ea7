"""DistributedDataParallel: the whole model on every rank, gradients all-reduced under the backward."""

from __future__ import annotations

from typing import Any

from torch.nn.parallel import DistributedDataParallel

from experiments.peers.contender import Options
from experiments.peers.distributed import DataParallelContender
from experiments.workloads import GptSpec


class DDP(DataParallelContender):
    """Each rank trains half of the mini-batch; without a limit on memory.

    Source: torch.nn.parallel.DistributedDataParallel; Li et al. (VLDB 2020).
    """

    registered_name = "ddp"

    def wrap(self, spec: GptSpec, options: Options) -> tuple[Any, Any]:
        model = DistributedDataParallel(self.task.workload.model(spec), gradient_as_bucket_view=True)
        return model, self.optimizer(model)
