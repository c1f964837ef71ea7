"""Searches for cuts: balanced ones into ever more shards, and of these the ones whose end is foretold soonest.

The greedy partitioner cuts as rarely as state and boundaries allow. More and smaller shards leave room for loading the
next unit whole, its spilled activations too, while one computes; each costs a boundary and a decision. Which of the two
weighs more is for the simulator to say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import TYPE_CHECKING

from executor.copying import core_copy_bytes_per_s
from executor.partition import Partition, cut_at
from hydrasim.cluster import Cluster, Device, Link
from hydrasim.errors import HydraError
from hydrasim.simulator import simulate

if TYPE_CHECKING:
    from executor.pilot import JobPilot
    from executor.prepare import Prepared

_TIMES_AS_MANY = (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)  # shards as the greedy partitioner's
_PREDICTED_MINIBATCHES = 4  # of each job
_POLICY = "resident-lrtf"
_DISPATCH_S = 5e-4  # an estimate, of deciding, sending and taking up a unit (results/executor)


def searched(greedy: Prepared, made: Callable[[list[Partition]], Prepared]) -> Prepared:
    """Return jobs in the cuts that are foretold to end soonest; the greedy ones are among those that are tried.

    Jobs in their user's cuts keep them. made: prepares jobs that are cut.
    """
    core_bytes_per_s = core_copy_bytes_per_s()
    best, best_s = greedy, _foretold_s(greedy, core_bytes_per_s)
    for times in _TIMES_AS_MANY:
        try:
            tried = made([_balanced(part, math.ceil(times * len(part.shards))) for part in greedy.partitions])
            seconds = _foretold_s(tried, core_bytes_per_s)
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


def _balanced(part: Partition, count: int) -> Partition:
    """Cut a job into so many shards, or into its layers, that take about as much room each."""
    job = part.job
    if job.cuts is not None:
        return part
    return cut_at(part.pilot, balanced_cuts(_weights(part.pilot), min(count, len(job.layers))))


def _weights(pilot: JobPilot) -> list[int]:
    """Return what each layer's state and activations take."""
    finest = cut_at(pilot, tuple(range(1, len(pilot.job.layers))))
    return [shard.layout.block_bytes + shard.activation_bytes for shard in finest.shards]


def _foretold_s(prepared: Prepared, core_bytes_per_s: float) -> float:
    """Return when a few mini-batches of each job end, at the pilots' rough seconds; copies at memory speed take some.

    Raises:
        HydraError: the cuts do not fit.
    """
    few = prepared.limited(_PREDICTED_MINIBATCHES)
    return simulate(few.workload, _charged(few.cluster, core_bytes_per_s), _POLICY).makespan_s


def _charged(cluster: Cluster, core_bytes_per_s: float) -> Cluster:
    """Have copies without a link's speed go at a core's, and take it up."""
    devices = tuple(_linked(device, core_bytes_per_s) for device in cluster.devices)
    on_host = any(device.on_host for device in devices)
    core_copy = core_bytes_per_s if on_host else cluster.core_copy_bytes_per_s
    return replace(cluster, devices=devices, core_copy_bytes_per_s=core_copy, dispatch_s=_DISPATCH_S)


def _linked(device: Device, bytes_per_s: float) -> Device:
    def at_most(link: Link) -> Link:
        return replace(link, bytes_per_s=bytes_per_s) if math.isinf(link.bytes_per_s) else link

    return replace(device, h2d=at_most(device.h2d), d2h=at_most(device.d2h))
