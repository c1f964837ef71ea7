"""What a unit reads, writes and uses up: the blocks that move between host and device memory.

F0 -x1-> F1 -x2-> L2        x: boundary activations (x0 is the mini-batch)
 |        |     -g1->       g: gradients of a boundary, by the shard that made it
B0 <-g0- B1 <-----          y: targets        w: state (parameters, then optimizer state)
 |        |      |          a: what a forward leaves for its own backward, where that is kept or spilled
 d0       d1     d2         d: a shard's gradients, where an update unit of their own takes them up, or the next
 v        v      v             mini-batch's backward, which adds to them
 U0       U1     U2
"""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

from hydrasim.workload import ActivationMode, Phase, ShardUnit, TrainingJob

_OF_SHARD = {"g": attrgetter("output_bytes"), "a": attrgetter("activation_bytes"), "d": attrgetter("gradient_bytes")}
_OF_JOB = {"y": attrgetter("target_bytes"), "t": attrgetter("tied_bytes")}
ALIGNMENT = 64  # bytes; vector loads are fastest on it, and results do not depend on it


class BlockKey(NamedTuple):
    """A piece of data: state (w), boundary (x), its gradient (g), target (y), activations (a), gradients (d, t).

    All have a home in host memory but activations, which only have one when they are spilled.
    """

    kind: str
    job: str
    shard: int
    minibatch: int  # -1 for state, which outlives mini-batches

    def __str__(self) -> str:
        tail = "" if self.minibatch < 0 else f"#{self.minibatch}"
        return f"{self.job}/{self.kind}{self.shard}{tail}"


@dataclass(frozen=True, slots=True)
class Dataflow:
    """The blocks of one unit. reads gives how many leading bytes of each block the unit needs.

    mode: what becomes of a forward's activations, or how a backward finds them.
    """

    reads: tuple[tuple[BlockKey, int], ...]
    writes: tuple[BlockKey, ...]  # new blocks that the unit fills
    state: BlockKey
    updates_state: bool
    consumes: tuple[BlockKey, ...]  # nobody needs these afterwards
    mode: ActivationMode

    @property
    def touched(self) -> tuple[BlockKey, ...]:
        """Every block that must be on the device: what is read, then what is written."""
        return (*(key for key, _ in self.reads), *self.writes)


def aligned(nbytes: int) -> int:
    """Round up to the alignment that every block keeps."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def block_bytes(job: TrainingJob, key: BlockKey) -> int:
    """Return the room that a block takes in an arena; what the optimizer keeps in host memory has none there."""
    if key.kind == "w" and job.host_updates != "no":
        return aligned(job.shards[key.shard].parameter_bytes)
    return home_bytes(job, key)


def home_bytes(job: TrainingJob, key: BlockKey) -> int:
    """Return the room that a block takes in host memory."""
    shard = job.shards[key.shard]
    if key.kind == "w":
        return aligned(shard.parameter_bytes) + aligned(shard.optimizer_bytes)
    if key.kind in _OF_SHARD:
        return aligned(_OF_SHARD[key.kind](shard))
    if key.kind in _OF_JOB:
        return aligned(_OF_JOB[key.kind](job))
    return aligned(job.input_bytes if key.shard == 0 else job.shards[key.shard - 1].output_bytes)


def activations_of(job: TrainingJob, unit: ShardUnit) -> BlockKey | None:
    """Return the block of the activations that a unit leaves or wants, None where there is nothing to keep."""
    one_unit = unit.phase not in (Phase.FORWARD, Phase.BACKWARD)
    if one_unit or job.activation_mode == "recompute" or not job.shards[unit.shard].activation_bytes:
        return None
    return BlockKey("a", job.name, unit.shard, unit.minibatch)


def updates_state(job: TrainingJob, unit: ShardUnit) -> bool:
    """Tell whether a unit changes its shard's state."""
    if unit.phase in (Phase.FORWARD, Phase.LOSS) and job.shards[unit.shard].forward_updates:
        return True
    if job.separate_updates:
        return unit.phase is Phase.UPDATE
    return unit.phase in (Phase.LOSS, Phase.BACKWARD)


def is_last_update(job: TrainingJob, unit: ShardUnit) -> bool:
    """Tell whether a unit makes the last version of its shard's state."""
    last = job.schedule.last_trained
    if not updates_state(job, unit) or unit.minibatch < job.schedule.last_step:
        return False
    if unit.phase is Phase.FORWARD or (unit.phase is Phase.LOSS and job.update_units):
        return unit.minibatch == last and not job.schedule.steps_after(last)
    return unit.minibatch == last or not job.shards[unit.shard].forward_updates


def gradients_of(job: TrainingJob, shard: int, minibatch: int) -> tuple[BlockKey, ...]:
    """Return the block of gradients that a backward leaves for an update apart from it, if there is one."""
    return (BlockKey("d", job.name, shard, minibatch),) if job.separate_updates else ()


def tied_gradients_of(job: TrainingJob, unit: ShardUnit) -> tuple[tuple[BlockKey, ...], tuple[BlockKey, ...]]:
    """Return the blocks of tied weights' gradients that a unit reads, and writes."""
    sharers, n = job.tied_shards, unit.minibatch
    if unit.shard not in sharers or unit.phase in (Phase.FORWARD, Phase.EVALUATE):
        return (), ()
    whole = BlockKey("t", job.name, sharers[0], n)
    if unit.phase is Phase.UPDATE:
        return (whole,), ()
    own = BlockKey("t", job.name, unit.shard, n)
    above = [BlockKey("t", job.name, shard, n) for shard in sharers if shard > unit.shard][:1]
    adds_up = own == whole and job.schedule.adds_up(n)
    return (*above, *([whole._replace(minibatch=n - 1)] if adds_up else [])), (own,)


def dataflow(job: TrainingJob, unit: ShardUnit, mode: ActivationMode | None = None) -> Dataflow:
    """Return what a unit reads, writes and uses up; mode: of its activations, by default as the job says."""
    mode = mode or job.activation_mode
    shard, last, n = unit.shard, len(job.shards) - 1, unit.minibatch
    state = BlockKey("w", job.name, shard, -1)
    whole = (state, block_bytes(job, state))
    if unit.phase is Phase.UPDATE and job.update_units:
        gradients, (tied, _) = gradients_of(job, shard, n), tied_gradients_of(job, unit)
        spent = tied if (shard,) == job.tied_shards[-1:] else ()
        return Dataflow(_sized(job, [*gradients, *tied], whole), (), state, True, (*gradients, *spent), mode)
    leading = (state, aligned(job.shards[shard].parameter_bytes))
    kept = activations_of(job, unit)
    found = () if kept is None or mode == "recompute" else (kept,)
    reads = [BlockKey("x", job.name, shard, n)]
    if shard == last:
        reads.append(BlockKey("y", job.name, last, n))
    boundary = () if shard == last else (BlockKey("x", job.name, shard + 1, n),)
    if unit.phase is Phase.EVALUATE:
        used = whole if job.shards[shard].forward_updates else leading
        return Dataflow(_sized(job, reads, used), boundary, state, False, tuple(reads), mode)
    if unit.phase is Phase.FORWARD:
        updates, writes = updates_state(job, unit), (*boundary, *found)
        return Dataflow(_sized(job, reads, whole if updates else leading), writes, state, updates, (), mode)
    if shard != last:
        reads.append(BlockKey("g", job.name, shard, n))
    if job.schedule.adds_up(n):
        reads += gradients_of(job, shard, n - 1)
    from_above, tied = tied_gradients_of(job, unit)
    reads += from_above
    handed_on = () if shard == 0 else (BlockKey("g", job.name, shard - 1, n),)
    writes = (*handed_on, *gradients_of(job, shard, n), *tied)
    consumes = (*reads, *(() if kept is None else (kept,)))
    updates = updates_state(job, unit)
    return Dataflow(
        _sized(job, [*reads, *found], whole if updates else leading), writes, state, updates, consumes, mode
    )


def unit_bytes(job: TrainingJob, unit: ShardUnit) -> int:
    """Return the arena room that a unit needs at once: its state, inputs, outputs and kept activations."""
    return sum(block_bytes(job, key) for key in dataflow(job, unit).touched)


def neediest_unit(job: TrainingJob, shard: int) -> ShardUnit:
    """Return a unit of a shard than which none needs more room: a backward, where it adds to earlier gradients."""
    phase = Phase.LOSS if job.fused and shard == len(job.shards) - 1 else Phase.BACKWARD
    return ShardUnit(job.name, phase, shard, 0 if job.schedule.steps_after(0) else 1)


def state_keys(job: TrainingJob) -> list[BlockKey]:
    """Return the blocks of a job's state."""
    return [BlockKey("w", job.name, shard, -1) for shard in range(len(job.shards))]


def fetched_keys(job: TrainingJob, minibatch: int) -> tuple[BlockKey, BlockKey]:
    """Return the blocks that a job's loader produces for a mini-batch: its input and its targets."""
    return BlockKey("x", job.name, 0, minibatch), BlockKey("y", job.name, len(job.shards) - 1, minibatch)


def passing_keys(job: TrainingJob) -> list[BlockKey]:
    """Return the blocks that lie in host memory at most at a time, state aside.

    That is what the units of one mini-batch hand on, its input, targets, spilled activations and gradients for
    updates, input and targets of the next one, which is fetched while this one goes backward, and the gradients that it
    adds to.
    """
    last = len(job.shards) - 1
    keys = [BlockKey("x", job.name, shard, 0) for shard in range(last + 1)]
    keys += [BlockKey("g", job.name, shard, 0) for shard in range(last)]
    keys.append(BlockKey("y", job.name, last, 0))
    if job.num_minibatches > 1:
        keys += fetched_keys(job, 1)
    if job.separate_updates:
        num_places = min(2, job.accumulate, job.num_minibatches)
        keys += [BlockKey("d", job.name, shard, n) for shard in range(last + 1) for n in range(num_places)]
        keys += [BlockKey("t", job.name, shard, 0) for shard in job.tied_shards]
        keys += [BlockKey("t", job.name, shard, n) for shard in job.tied_shards[:1] for n in range(1, num_places)]
    if job.activation_mode == "spill":
        keys += [BlockKey("a", job.name, shard, 0) for shard in range(last if job.fused else last + 1)]
    return keys


def _sized(job: TrainingJob, keys: list[BlockKey], state: tuple[BlockKey, int]) -> tuple[tuple[BlockKey, int], ...]:
    return (state, *((key, block_bytes(job, key)) for key in keys))
