"""What forward and backward passes take, told apart from how SHARP's units join them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from hydrasim.errors import ProfileError
from hydrasim.workload import Phase, ShardUnit, TrainingJob

if TYPE_CHECKING:
    from hydrasim.profile import CostModel

_FORWARD_SHARE = 1 / 3  # of a forward and a backward together, where a profile holds only both


class Passes:
    """Seconds of whole-mini-batch passes through a job's shards; a first mini-batch may have times of its own.

    The update is part of the backward, as in SHARP's units, so that all systems train at the same costs.
    """

    def __init__(self, job: TrainingJob, costs: CostModel) -> None:
        self._job, self._costs = job, costs
        self.num_shards = len(job.shards)
        self._forwards, self._backwards = cache(self._forward_s), cache(self._backward_s)

    def forward_s(self, shard: int, device: int, minibatch: int) -> float:
        """Return the seconds of a forward."""
        return self._forwards(shard, device, min(minibatch, 1))

    def backward_s(self, shard: int, device: int, minibatch: int) -> float:
        """Return the seconds of a backward that finds its activations, and of its update."""
        return self._backwards(shard, device, min(minibatch, 1))

    def _forward_s(self, shard: int, device: int, minibatch: int) -> float:
        """See `forward_s`; of a fused last shard that was only measured whole, a third."""
        try:
            return self._costs.compute_s(ShardUnit(self._job.name, Phase.FORWARD, shard, minibatch), device)
        except ProfileError:
            if not self._is_fused(shard):
                raise
            whole = ShardUnit(self._job.name, Phase.LOSS, shard, minibatch)
            return self._costs.compute_s(whole, device) * _FORWARD_SHARE

    def _backward_s(self, shard: int, device: int, minibatch: int) -> float:
        if self._is_fused(shard):
            whole = ShardUnit(self._job.name, Phase.LOSS, shard, minibatch)
            return self._costs.compute_s(whole, device) - self._forward_s(shard, device, minibatch)
        unit = ShardUnit(self._job.name, Phase.BACKWARD, shard, minibatch)
        return self._costs.compute_s(unit, device, "keep")

    def _is_fused(self, shard: int) -> bool:
        return self._job.fused and shard == self.num_shards - 1


def saved_bytes(job: TrainingJob, shard: int) -> int:
    """Return what a forward leaves for its backward, for a whole mini-batch; the unit's peak where it is not stated."""
    stated = job.shards[shard]
    return stated.activation_bytes or stated.working_bytes
