"""Searches for cuts: balanced ones into ever more shards, and of these the ones whose end is foretold soonest.

The greedy partitioner cuts as rarely as state and boundaries allow. More and smaller shards leave room for loading the
next unit whole, its spilled activations too, while one computes; each costs a boundary and a decision. Which of the two
weighs more is for the simulator to say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from executor.copying import core_copy_bytes_per_s
from executor.foretell import foretold_s
from executor.partition import Partition, cut_at
from hydrasim.errors import HydraError

if TYPE_CHECKING:
    from executor.prepare import Prepared

_TIMES_AS_MANY = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # shards as the greedy partitioner's


def searched(greedy: Prepared, made: Callable[[list[Partition]], Prepared]) -> Prepared:
    """Return jobs in the cuts that are foretold to end soonest; the greedy ones are among those that are tried.

    Jobs in their user's cuts keep them. made: prepares jobs that are cut.
    """
    core_bytes_per_s = core_copy_bytes_per_s()
    best, best_s = greedy, foretold_s(greedy, core_bytes_per_s)
    weights = [_weights(part) for part in greedy.partitions]
    counts = [
        [
            min(math.ceil(times * len(part.shards)), len(mine))
            for part, mine in zip(greedy.partitions, weights, strict=True)
        ]
        for times in _TIMES_AS_MANY
    ]
    for each in dict.fromkeys(map(tuple, counts)):
        try:
            tried = made([_cut(*job) for job in zip(greedy.partitions, weights, each, strict=True)])
            seconds = foretold_s(tried, core_bytes_per_s)
        except HydraError:  # does not fit, or cuts through what must stay together
            continue
        if seconds < best_s:
            best, best_s = tried, seconds
    return best


def balanced_cuts(weights: Sequence[int], count: int) -> tuple[int, ...]:
    """Return the cuts of layers into so many shards whose heaviest is lightest, by dynamic programming over cuts.

    weights: of the layers. count: from one to their number.
    """
    upto = [0, *accumulate(weights)]
    ends = range(1, len(weights) + 1)
    heaviest: list[float] = [math.inf, *upto[1:]]  # of the layers up to each, in so many shards as yet
    last_cuts: list[list[int]] = []
    for _ in range(count - 1):
        choices = [
            min(((max(heaviest[cut], upto[end] - upto[cut]), cut) for cut in range(1, end)), default=(math.inf, 0))
            for end in ends
        ]
        heaviest = [math.inf, *[found for found, _ in choices]]
        last_cuts.append([0, *[cut for _, cut in choices]])
    cuts: list[int] = []
    end = len(weights)
    for last in reversed(last_cuts):
        end = last[end]
        cuts.append(end)
    return tuple(reversed(cuts))


def _weights(part: Partition) -> list[int]:
    """Return what each layer's state and activations take; nothing of a job in its user's cuts."""
    if part.job.cuts is not None:
        return []
    finest = cut_at(part.pilot, tuple(range(1, len(part.job.layers))))
    return [shard.layout.block_bytes + shard.activation_bytes for shard in finest.shards]


def _cut(part: Partition, weights: Sequence[int], count: int) -> Partition:
    """Cut a job into so many shards that take about as much room each."""
    return cut_at(part.pilot, balanced_cuts(weights, count)) if weights else part
