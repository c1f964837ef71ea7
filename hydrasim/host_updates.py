"""Optimizers that step in host memory: when they do, what they follow, and which copies on devices are old then.

device    == B of a shard ==|                             |== F of the next mini-batch ==
d2h                         |= gradients =|                 ^
host                                      |== update ==| -> h2d: parameters
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydrasim.command import HOST, Kind, Lane
from hydrasim.dataflow import BlockKey, gradients_of, home_bytes
from hydrasim.memory import Block
from hydrasim.workload import Phase, ShardUnit, TrainingJob

if TYPE_CHECKING:
    from hydrasim.host_memory import Emit, HostMemory


def shards_on_host(job: TrainingJob) -> list[int]:
    """Return the shards whose optimizers step in host memory; one that gets no gradients never steps."""
    return [index for index, shard in enumerate(job.shards) if job.host_updates != "no" and shard.gradient_bytes]


def outdates_copies(job: TrainingJob, unit: ShardUnit) -> bool:
    """Tell whether a unit is the last to use its shard's state before that is updated in host memory."""
    if job.host_updates == "no" or unit.phase not in (Phase.BACKWARD, Phase.LOSS):
        return False
    return job.schedule.steps_after(unit.minibatch) and unit.shard in shards_on_host(job)


def shards_updated_after(job: TrainingJob, unit: ShardUnit) -> list[int]:
    """Return the shards whose optimizers step in host memory once a unit's gradients are stored."""
    if job.host_updates == "each":
        return [unit.shard] if outdates_copies(job, unit) else []
    ends = job.host_updates == "all" and unit.shard == 0 and unit.phase in (Phase.BACKWARD, Phase.LOSS)
    if not ends or not job.schedule.steps_after(unit.minibatch):
        return []
    return shards_on_host(job)


def update_on_host(job: TrainingJob, unit: ShardUnit, compute: int, host: HostMemory, emit: Emit) -> list[BlockKey]:
    """Emit the updates that a unit brings about; return the blocks of gradients that are spent with them.

    compute: the unit's. Updates follow it also where it leaves no gradients itself: were its device lost after them,
    it would be run again, and bring them about once more.
    """
    shards = shards_updated_after(job, unit)
    gradients = [gradients_of(job, shard, unit.minibatch)[0] for shard in shards]
    stored = {compute, *(number for key in gradients if (number := host.homes[key].ready) is not None)}
    for shard in shards:
        state = BlockKey("w", job.name, shard, -1)
        after, nbytes = host.before_update(state, unit, emit) | stored, home_bytes(job, state)
        step = ShardUnit(job.name, Phase.UPDATE, shard, unit.minibatch)
        host.updated(state, emit(Kind.UPDATE, Lane.UPDATE, HOST, step, after, Block(state, 0, nbytes), 0, nbytes))
    return gradients
