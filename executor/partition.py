"""Cuts models into shards that fit: the paper's greedy pilot, or the cuts that the user gave."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from executor.job import TorchJob
from executor.pilot import JobPilot, ShardPilot
from hydrasim.dataflow import aligned
from hydrasim.errors import ShardTooLarge

_MAX_ROUNDS = 8


@dataclass(frozen=True)
class Partition:
    """One job cut into shards, with the pilot of each."""

    job: TorchJob
    pilot: JobPilot
    cuts: tuple[int, ...]
    shards: tuple[ShardPilot, ...]

    @property
    def constant_bytes(self) -> int:
        return sum(shard.constant_bytes for shard in self.shards)


def partition(
    pilots: Sequence[JobPilot], memory_bytes: int, *, loading_zone_fraction: float | None = None
) -> list[Partition]:
    """Cut every job for a device of that much memory, the smallest one of the cluster.

    Greedy: grow a shard by a layer at a time, running it forward and backward, and cut before the layer
    that no longer fits. A unit's state, inputs and outputs must fit beside the activation peak of
    whichever unit runs: with a loading zone in what the zone leaves, without one in half, so that the
    next unit can be loaded meanwhile.

    Raises:
        ShardTooLarge: a single layer does not fit.

    Source: Algorithm 1 of the paper.
    """
    peak = 0
    for _ in range(_MAX_ROUNDS):
        done = [_cut(pilot, loading_zone_fraction, partial(_arena_bytes, memory_bytes, peak)) for pilot in pilots]
        # Every job must leave room for the peak of the others, so the greatest decides for all.
        found = reserved_bytes(done)
        if found <= peak:
            return done
        peak = found
    return done


def partition_arena(
    pilots: Sequence[JobPilot], arena_bytes: int, *, loading_zone_fraction: float | None = None
) -> list[Partition]:
    """Cut every job for that much room for state and boundaries, whatever the activation peak comes to."""
    return [_cut(pilot, loading_zone_fraction, lambda _: arena_bytes) for pilot in pilots]


def reserved_bytes(parts: Sequence[Partition]) -> int:
    """Return what a device needs outside its arena: the activation peak, and all models' constant buffers."""
    peak = max(aligned(shard.working_bytes) for part in parts for shard in part.shards)
    return peak + sum(part.constant_bytes for part in parts)


def _cut(pilot: JobPilot, loading_zone_fraction: float | None, arena_bytes: Callable[[ShardPilot], int]) -> Partition:
    job = pilot.job
    num_layers = len(job.layers)
    if job.cuts is not None:
        job.shards(job.cuts)  # complains about impossible cuts
        bounds = list(itertools.pairwise([0, *job.cuts, num_layers]))
        return Partition(job, pilot, job.cuts, tuple(pilot.chain(bounds)))
    share = 0.5 if loading_zone_fraction is None else 1.0 - loading_zone_fraction
    cuts: list[int] = []
    shards: list[ShardPilot] = []
    low, value = 0, pilot.input
    while low < num_layers:
        input_bytes = shards[-1].output_bytes if shards else pilot.input_bytes
        fitting: tuple[int, ShardPilot] | None = None
        for high in range(low + 1, num_layers + 1):
            tried = pilot.run(low, high, value)
            need, room = _need(job, pilot, tried, input_bytes, high), int(share * max(0, arena_bytes(tried)))
            if need > room:
                break
            fitting = (high, tried)
        if fitting is None:
            raise ShardTooLarge(
                f"layer {low} of {job.name!r} needs {need:,} bytes for state, inputs and outputs; beside an activation "
                f"peak of {tried.working_bytes:,} or more, {room:,} are left for one unit.\n"
                "  Split the layer, use a smaller batch, or give the device more memory."
            )
        low, value = fitting[0], fitting[1].output
        shards.append(fitting[1])
        cuts.append(low)
    return Partition(job, pilot, tuple(cuts[:-1]), tuple(shards))


def _arena_bytes(memory_bytes: int, peak: int, shard: ShardPilot) -> int:
    return memory_bytes - max(peak, aligned(shard.working_bytes))


def _need(job: TorchJob, pilot: JobPilot, shard: ShardPilot, input_bytes: int, high: int) -> int:
    """Arena bytes of the shard's costliest unit: state, input, and its gradient or the target, and output."""
    last = high == len(job.layers)
    other = aligned(pilot.target_bytes) if last else aligned(shard.output_bytes)
    state = aligned(shard.layout.parameter_bytes) + aligned(shard.layout.optimizer_bytes)
    return state + 2 * aligned(input_bytes) + other
