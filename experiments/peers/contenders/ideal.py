"""The ideal: every model whole in memory, a process a core, each with models of its own."""

from __future__ import annotations

from collections.abc import Mapping

from executor.reference import train_plain
from experiments.models import next_byte_loss
from experiments.peers.contender import Contender, Losses, Options
from experiments.peers.workloads import OPTIMIZERS, PeerWorkload


class Ideal(Contender):
    """Task parallelism with no limit on memory: the reference loop, models dealt to the processes longest first.

    A single rank trains all jobs one after another, which is the reference itself.
    """

    registered_name = "ideal"
    exact = True

    def begin(self, options: Options) -> None:
        workload = self.task.workload
        mine = deal(workload, self.rank.count)[self.rank.index]
        models = {spec.name: workload.model(spec) for spec in workload.specs if spec.name in mine}
        self.trained = {
            name: (model, OPTIMIZERS[self.task.optimizer](model.parameters())) for name, model in models.items()
        }

    def train(self, minibatches: Mapping[str, int]) -> Losses:
        losses: Losses = {}
        for name, (model, optimizer) in self.trained.items():
            loader = self.task.workload.loader()
            losses[name], _ = train_plain(model, next_byte_loss, loader, optimizer, max_steps=minibatches[name])
        return losses


def deal(workload: PeerWorkload, num_ranks: int) -> list[list[str]]:
    """Deal jobs out, the longest first, each to the rank with the least work so far."""
    hands: list[list[str]] = [[] for _ in range(num_ranks)]
    work = [0] * num_ranks
    for spec in sorted(workload.specs, key=workload.work, reverse=True):
        least = work.index(min(work))
        hands[least].append(spec.name)
        work[least] += workload.work(spec)
    return hands
