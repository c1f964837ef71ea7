"""What a unit reads, writes and uses up: the blocks that move between host and device memory.

F0 -x1-> F1 -x2-> L2        x: boundary activations (x0 is the mini-batch)
 |        |     -g1->       g: gradients of a boundary, by the shard that made it
B0 <-g0- B1 <-----          y: targets        w: state (parameters, then optimizer state)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from hydrasim.workload import Phase, ShardUnit, TrainingJob

ALIGNMENT = 64  # bytes; vector loads are fastest on it, and results do not depend on it


class BlockKey(NamedTuple):
    """A piece of data with a home in host memory: state (w), boundary (x), gradient (g), target (y)."""

    kind: str
    job: str
    shard: int
    minibatch: int  # -1 for state, which outlives mini-batches

    def __str__(self) -> str:
        tail = "" if self.minibatch < 0 else f"#{self.minibatch}"
        return f"{self.job}/{self.kind}{self.shard}{tail}"


@dataclass(frozen=True, slots=True)
class Dataflow:
    """The blocks of one unit. reads gives how many leading bytes of each block the unit needs."""

    reads: tuple[tuple[BlockKey, int], ...]
    writes: tuple[BlockKey, ...]  # new blocks that the unit fills
    state: BlockKey
    updates_state: bool
    consumes: tuple[BlockKey, ...]  # nobody needs these afterwards

    @property
    def touched(self) -> tuple[BlockKey, ...]:
        """Every block that must be on the device: what is read, then what is written."""
        return (*(key for key, _ in self.reads), *self.writes)


def aligned(nbytes: int) -> int:
    """Round up to the alignment that every block keeps."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def block_bytes(job: TrainingJob, key: BlockKey) -> int:
    """Return the room that a block takes in an arena and in the host store."""
    shard = job.shards[key.shard]
    if key.kind == "w":
        return aligned(shard.parameter_bytes) + aligned(shard.optimizer_bytes)
    if key.kind == "y":
        return aligned(job.target_bytes)
    if key.kind == "g":
        return aligned(shard.output_bytes)
    return aligned(job.input_bytes if key.shard == 0 else job.shards[key.shard - 1].output_bytes)


def dataflow(job: TrainingJob, unit: ShardUnit) -> Dataflow:
    """Return what a unit reads, writes and uses up."""
    shard, last, n = unit.shard, len(job.shards) - 1, unit.minibatch
    state = BlockKey("w", job.name, shard, -1)
    entry = BlockKey("x", job.name, shard, n)
    reads = [entry]
    if shard == last:
        reads.append(BlockKey("y", job.name, last, n))
    if unit.phase is Phase.FORWARD:
        parameters = aligned(job.shards[shard].parameter_bytes)
        writes = () if shard == last else (BlockKey("x", job.name, shard + 1, n),)
        return Dataflow(_sized(job, reads, (state, parameters)), writes, state, False, ())
    if shard != last:
        reads.append(BlockKey("g", job.name, shard, n))
    writes = () if shard == 0 else (BlockKey("g", job.name, shard - 1, n),)
    full = (state, block_bytes(job, state))
    return Dataflow(_sized(job, reads, full), writes, state, True, tuple(reads))


def unit_bytes(job: TrainingJob, unit: ShardUnit) -> int:
    """Return the arena room that a unit needs at once: its state, inputs and outputs."""
    return sum(block_bytes(job, key) for key in dataflow(job, unit).touched)


def _sized(job: TrainingJob, keys: list[BlockKey], state: tuple[BlockKey, int]) -> tuple[tuple[BlockKey, int], ...]:
    return (state, *((key, block_bytes(job, key)) for key in keys))
