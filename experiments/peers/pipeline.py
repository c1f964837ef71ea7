"""What pipelines share: a model in two stages, one a rank, and micro-batches that go through by a schedule of torch."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from executor.budget import BudgetTracker
from experiments.peers.contender import Losses, Options
from experiments.peers.distributed import DistributedContender
from experiments.peers.workloads import OPTIMIZERS
from experiments.workloads import GptSpec

if TYPE_CHECKING:
    from torch.distributed.pipelining import PipelineStage


class Recomputed(nn.Module):
    """Layers of which only the input is kept, and whose forward runs again for the backward."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def forward(self, value: Tensor) -> Tensor:
        """Return the output of the layers."""
        output: Tensor = checkpoint(self.layers, value, use_reentrant=False, preserve_rng_state=False)
        return output


class PipelineContender(DistributedContender):
    """One job at a time on all ranks; each keeps its stage of every job.

    recompute: whether a stage keeps only the inputs of micro-batches.
    """

    variants = ({"microbatches": 2}, {"microbatches": 4}, {"microbatches": 8})
    recompute: ClassVar[bool] = False

    @abstractmethod
    def schedule(self, stage: PipelineStage, microbatches: int) -> Any:
        """Make torch's schedule for a stage."""

    def begin(self, options: Options) -> None:
        self.stages = {spec.name: self._stage(spec, options["microbatches"]) for spec in self.task.workload.specs}

    def train(self, minibatches: Mapping[str, int]) -> Losses:
        is_last = self.rank.index == self.rank.count - 1
        losses: Losses = {}
        for name, count in minibatches.items():
            schedule, optimizer, _ = self.stages[name]
            found = []
            for inputs, targets in itertools.islice(self.task.workload.loader(), count):
                optimizer.zero_grad(set_to_none=True)
                of_parts: list[Tensor] = []
                if is_last:
                    schedule.step(*self._first(inputs), target=targets, losses=of_parts, return_outputs=False)
                    found.append(float(torch.stack(of_parts).double().mean()))
                else:
                    schedule.step(*self._first(inputs), return_outputs=False)
                optimizer.step()
            if is_last:
                losses[name] = found
        return losses

    def memory_bytes(self) -> int:
        """Train one more mini-batch of the largest model, and count."""
        workload = self.task.workload
        largest = max(workload.specs, key=workload.num_weights)
        _, optimizer, module = self.stages[largest.name]
        held = [*module.parameters(), *(value for state in optimizer.state.values() for value in state.values())]
        tracker = BudgetTracker()
        tracker.exempt(held)
        with tracker:
            self.train({largest.name: 1})
        return tracker.peak_bytes + sum(tensor.nbytes for tensor in held if isinstance(tensor, Tensor))

    def _first(self, inputs: Tensor) -> tuple[Tensor, ...]:
        return (inputs,) if self.rank.index == 0 else ()

    def _stage(self, spec: GptSpec, microbatches: int) -> tuple[Any, torch.optim.Optimizer, nn.Module]:
        from torch.distributed.pipelining import PipelineStage

        model = self.task.workload.model(spec)
        half = 1 + spec.depth // 2  # embedding and first half of the blocks; the rest and the head
        module: nn.Module = model[:half] if self.rank.index == 0 else model[half:]
        optimizer = OPTIMIZERS[self.task.optimizer](module.parameters())
        staged = Recomputed(module) if self.recompute else module
        stage = PipelineStage(staged, self.rank.index, self.rank.count, torch.device("cpu"))
        return self.schedule(stage, microbatches), optimizer, module
