"""What contenders of several ranks share: a gloo group over loopback, and the halves of a mini-batch."""

from __future__ import annotations

import itertools
import os
from abc import abstractmethod
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from experiments.models import next_byte_loss
from experiments.peers.contender import Contender, Losses, Options, Rank, Task
from experiments.peers.workloads import OPTIMIZERS
from experiments.workloads import GptSpec

_TIMEOUT = timedelta(seconds=120)  # of one collective; the race has its own limit


class DistributedContender(Contender):
    """A rank of a gloo group."""

    def __init__(self, task: Task, rank: Rank) -> None:
        super().__init__(task, rank)
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        store = dist.FileStore(rank.rendezvous, rank.count)
        dist.init_process_group("gloo", store=store, rank=rank.index, world_size=rank.count, timeout=_TIMEOUT)


class DataParallelContender(DistributedContender):
    """Every rank trains an equal part of each mini-batch; one job at a time."""

    def __init__(self, task: Task, rank: Rank) -> None:
        super().__init__(task, rank)
        self.trained: dict[str, tuple[Any, Any]] = {}  # a wrapped model and what steps it, by job

    def begin(self, options: Options) -> None:
        self.trained = {spec.name: self.wrap(spec, options) for spec in self.task.workload.specs}

    @abstractmethod
    def wrap(self, spec: GptSpec, options: Options) -> tuple[Any, Any]:
        """Build a job's model and distribute it; return it with its optimizer."""

    def optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """Make the optimizer that the task names."""
        return OPTIMIZERS[self.task.optimizer](model.parameters())

    def step(self, model: Any, optimizer: Any, inputs: Tensor, targets: Tensor) -> Tensor:
        """Train on this rank's part of a mini-batch; return its loss."""
        optimizer.zero_grad(set_to_none=True)
        loss = next_byte_loss(model(inputs), targets)
        loss.backward()
        optimizer.step()
        return loss

    def train(self, minibatches: Mapping[str, int]) -> Losses:
        losses: Losses = {}
        for name, count in minibatches.items():
            batches = itertools.islice(self.task.workload.loader(), count)
            parts = ([part.chunk(self.rank.count)[self.rank.index] for part in batch] for batch in batches)
            losses[name] = [self.step(*self.trained[name], *part).item() for part in parts]
        return losses
