"""Cuts models into shards that fit: the paper's greedy pilot, or the cuts that the user gave."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial

from executor.errors import JobError
from executor.job import TorchJob
from executor.layout import buffers_of
from executor.pilot import JobPilot, ShardPilot
from executor.ties import Ties, ties_of
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

    @cached_property
    def ties(self) -> Ties | None:
        """The weights that shards share.

        Raises:
            JobError: the last shard that has a copy does not use it, so there is nothing to start the sum from; or
                shards share a buffer that forwards change, of which there is only one.
        """
        layers = self.job.shards(self.cuts)
        moving = Counter(
            id(buffer)
            for shard, pilot in zip(layers, self.shards, strict=True)
            for buffer in (buffers_of(shard) if pilot.layout.buffers else ())
        )
        if any(count > 1 for count in moving.values()):
            raise JobError(
                f"job {self.job.name!r}: shards share a layer whose forward changes a buffer, as BatchNorm's does; "
                "give each its own, or cut so that one shard has it."
            )
        found = ties_of(layers, self.job.module.parameters())
        for sharing, shard in zip(found.shards if found else (), self.shards, strict=False):
            for held, above in zip(sharing.held, sharing.above, strict=True) if sharing else ():
                if held is not None and not above and not shard.has_gradient[held]:
                    raise JobError(
                        f"job {self.job.name!r}: a weight is shared by layers of which the last does not use it in its "
                        "forward; leave it out of that layer."
                    )
        return found

    @property
    def retained_bytes(self) -> int:
        """What layers make once and then keep on every device that they ran on."""
        return sum(shard.retained_bytes for shard in self.shards)

    @property
    def constant_bytes(self) -> int:
        """What lies on every device beside state, boundaries and activations."""
        return self.pilot.constant_bytes + self.retained_bytes


def partition(
    pilots: Sequence[JobPilot], memory_bytes: int, *, loading_zone_fraction: float | None = None
) -> list[Partition]:
    """Cut every job for a device of that much memory, the smallest one of the cluster.

    Greedy: grow a shard by a layer at a time, running it forward and backward, and cut before the layer
    that no longer fits. A unit's state, inputs and outputs must fit beside the activation peak of
    whichever unit runs: with a loading zone in what the zone leaves, without one in half, so that the
    next unit can be loaded meanwhile. Where the large activations of large shards leave too little for
    a layer, shards with smaller ones are tried.

    Raises:
        ShardTooLarge: a single layer does not fit.

    Source: Algorithm 1 of the paper.
    """
    share = 0.5 if loading_zone_fraction is None else 1.0 - loading_zone_fraction
    reserved = 0
    for _ in range(_MAX_ROUNDS):
        try:
            done = [_cut(pilot, partial(_room, share, memory_bytes, reserved)) for pilot in pilots]
        except ShardTooLarge:
            break
        # Every job must leave room for the peak of the others, so the greatest decides for all.
        found = reserved_bytes(done)
        if found <= reserved:
            return done
        reserved = found
    return _squeezed(pilots, memory_bytes, share)


def partition_arena(
    pilots: Sequence[JobPilot],
    arena_bytes: int,
    *,
    peak_bytes: float = math.inf,
    loading_zone_fraction: float | None = None,
) -> list[Partition]:
    """Cut every job for that much room for state and boundaries, and for an activation peak of at most so much.

    Raises:
        ShardTooLarge: there are no such cuts; its text names the job alone.
    """
    share = 0.5 if loading_zone_fraction is None else 1.0 - loading_zone_fraction
    return [_cut(pilot, partial(_room_below, peak_bytes, int(share * arena_bytes))) for pilot in pilots]


def reserved_bytes(parts: Sequence[Partition]) -> int:
    """Return what a device needs outside its arena: the activation peak, and all models' constant tensors."""
    peak = max(aligned(shard.working_bytes) for part in parts for shard in part.shards)
    return peak + sum(part.constant_bytes for part in parts)


def _squeezed(pilots: Sequence[JobPilot], memory_bytes: int, share: float) -> list[Partition]:
    """Cut with a limit on the activation peak: that of the costliest single layer, or a little more."""
    finest = [_as_given(pilot) or cut_at(pilot, tuple(range(1, len(pilot.job.layers)))) for pilot in pilots]
    constant_bytes = sum(part.constant_bytes for part in finest)
    peak = reserved_bytes(finest) - constant_bytes
    while peak + constant_bytes < memory_bytes:
        room = int(share * (memory_bytes - peak - constant_bytes))
        with suppress(ShardTooLarge):
            done = [_cut(pilot, partial(_room_below, peak, room)) for pilot in pilots]
            if reserved_bytes(done) <= peak + constant_bytes:
                return done
        if all(need <= room for need, _, _ in _needs(finest)):
            return finest
        peak += aligned(peak // 4 + 1)
    raise _refusal(finest, memory_bytes, share)


def _room_below(peak: float, room: int, shard: ShardPilot) -> int:
    return room if aligned(shard.working_bytes) <= peak else -1


def _room(share: float, memory_bytes: int, reserved: int, shard: ShardPilot) -> int:
    """Return the arena bytes that one unit may take when it is of this shard."""
    return int(share * (memory_bytes - max(reserved, aligned(shard.working_bytes))))


def _cut(pilot: JobPilot, room: Callable[[ShardPilot], int]) -> Partition:
    """Take the longest shard that fits, again and again; where that leads nowhere, the next shorter one.

    room: the arena bytes that one unit of a shard may take; below zero, the shard is out of the question.
    """
    if (given := _as_given(pilot)) is not None:
        return given
    num_layers = len(pilot.job.layers)
    chosen: list[tuple[int, ShardPilot]] = []  # each shard's end
    choices = [_fitting(pilot, 0, None, room)]
    nowhere: set[int] = set()
    while not chosen or chosen[-1][0] < num_layers:
        while choices[-1] and choices[-1][-1][0] in nowhere:
            choices[-1].pop()
        if choices[-1]:
            chosen.append(choices[-1].pop())
            if chosen[-1][0] < num_layers:
                choices.append(_fitting(pilot, *chosen[-1], room))
            continue
        choices.pop()
        if not chosen:
            raise ShardTooLarge(f"no cuts of {pilot.job.name!r} fit.")
        nowhere.add(chosen.pop()[0])
    return cut_at(pilot, tuple(high for high, _ in chosen[:-1]))


def _fitting(
    pilot: JobPilot, low: int, before: ShardPilot | None, room: Callable[[ShardPilot], int]
) -> list[tuple[int, ShardPilot]]:
    """Return the shards from a layer on that fit, shortest first, each with its end."""
    found = []
    for high in range(low + 1, len(pilot.job.layers) + 1):
        shard = pilot.run(low, high, pilot.input if before is None else before.output)
        most, need = room(shard), _need(pilot, shard, before, high)
        if need <= most:
            found.append((high, shard))
        elif need - aligned(shard.output_bytes) > most:  # a longer shard may hand on less, but needs the rest
            break
    return found


def _as_given(pilot: JobPilot) -> Partition | None:
    """Return the job in the user's cuts, if there are any."""
    if pilot.job.cuts is None:
        return None
    pilot.job.shards(pilot.job.cuts)  # complains about impossible cuts
    return cut_at(pilot, pilot.job.cuts)


def cut_at(pilot: JobPilot, cuts: tuple[int, ...]) -> Partition:
    """Return the job in these cuts; what is known of its shards is then as exact as it can be."""
    bounds = list(itertools.pairwise([0, *cuts, len(pilot.job.layers)]))
    return Partition(pilot.job, pilot, cuts, tuple(pilot.chain(bounds)))


def _need(pilot: JobPilot, shard: ShardPilot, before: ShardPilot | None, high: int) -> int:
    """Arena bytes of the shard's costliest unit: state, input, its gradient, and the output's or the target.

    Where steps are units of their own, also what it leaves for them, and what it adds to.
    """
    last = high == len(pilot.job.layers)
    other = aligned(pilot.target_bytes) if last else aligned(shard.output_bytes)
    # The first shard's input needs no gradient.
    inputs = aligned(pilot.input_bytes) if before is None else 2 * aligned(before.output_bytes)
    options, tied_bytes = pilot.job.step_options, pilot.job.shared_bytes
    on_host = pilot.job.update_on == "host"
    num_gradients = min(2, options.accumulate) if options.in_units_of_its_own or tied_bytes or on_host else 0
    state_bytes = aligned(shard.layout.parameter_bytes) if on_host else shard.layout.block_bytes
    tied_bytes *= 1 + num_gradients  # what is handed on, and what is added to
    return state_bytes + inputs + other + num_gradients * aligned(shard.gradients.nbytes) + tied_bytes


def _needs(parts: Sequence[Partition]) -> list[tuple[int, int, str]]:
    """Return the arena bytes that each shard needs, with its number and job; the user's cuts are theirs to answer."""
    return [
        (_need(part.pilot, shard, part.shards[index - 1] if index else None, high), index, part.job.name)
        for part in parts
        if part.job.cuts is None
        for index, (high, shard) in enumerate(zip([*part.cuts, len(part.job.layers)], part.shards, strict=True))
    ]


def _refusal(finest: Sequence[Partition], memory_bytes: int, share: float) -> ShardTooLarge:
    """Say which layer does not fit even in the finest cuts, and how much memory would do."""
    reserved, constant_bytes = reserved_bytes(finest), sum(part.constant_bytes for part in finest)
    room = max(0, int(share * (memory_bytes - reserved)))
    needs = _needs(finest)
    need, layer, name = next(entry for entry in needs if entry[0] > room)
    enough = reserved + math.ceil(max(needs)[0] / share)
    return ShardTooLarge(
        f"layer {layer} of {name!r} needs {need:,} bytes for state, inputs and outputs; a device of {memory_bytes:,} "
        f"leaves {room:,} for one unit, beside an activation peak of {reserved - constant_bytes:,} and "
        f"{constant_bytes:,} of constant tensors.\n"
        f"  Split the layer, use a smaller batch, or give the device more memory: {enough:,} bytes are enough."
    )
