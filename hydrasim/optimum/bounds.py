"""What no plan can beat: lower bounds on the makespan of a workload on a cluster, each with its argument.

Every bound takes the cheapest legal option: units in their job's mode on their fastest device, copies at the best rate
that any part of a block reaches. So policies, mechanisms and residency can only approach it; only noise may beat it by
chance.

    device 0   |-- h --|=== units ===|-- t --|      h: least time from the start to a job's first unit
    device 1   |-- h --|=== units ===|-- t --|      t: least time from a job's last unit to the end
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrasim.capacity import arena_bytes
from hydrasim.dag import Templates, kinds_of_minibatches, minibatch_dag, whole_path_s
from hydrasim.dataflow import BlockKey, aligned, block_bytes, dataflow, updates_state
from hydrasim.host_updates import shards_on_host, shards_updated_after
from hydrasim.mechanism import includes
from hydrasim.optimum.copies import LeastCopies
from hydrasim.workload import ShardUnit, TrainingJob, Workload

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hydrasim.cluster import Cluster, Direction, Resource
    from hydrasim.mechanism import Effects
    from hydrasim.profile import CostModel

_MAX_UNITS = 4096  # that are looked at one by one


@dataclass(frozen=True)
class _Chain:
    """A job as the bounds see it: when it may begin, what it computes, what is left to do after that, in seconds."""

    arrival_s: float
    before_s: float
    length_s: float
    after_s: float

    @property
    def head_s(self) -> float:
        return self.arrival_s + self.before_s


def lower_bounds(
    workload: Workload, cluster: Cluster, costs: CostModel, effects: Effects = "theory"
) -> dict[str, float]:
    """Return seconds that no plan can beat, by name of the argument; `effects`: what the world charges for.

    longest_job: a job's units run one after another once it has arrived, each at best on its fastest device; with
        transfers its first parameters and mini-batch arrive before, and its last update leaves after.
    area: all work spread perfectly. A device gets through at most so much of it a second as its best unit allows, and
        no more devices than there are jobs work at once, the fastest ones at best.
    longest_jobs: the same for the k longest jobs alone, on at most k devices, among those that arrive at some time or
        later; Horvath, Lam and Sethi (1977) for preemptive jobs on uniform machines.
    whole_units: of k * devices + 1 units, one device gets k + 1, and units are not preempted: their shortest k + 1 one
        after the other, between the earliest start and the least rest of any of them. For up to 4096 units.
    loads: all state is loaded, again in each pass over a job as far as it cannot stay (`loaded_bytes`), over all links
        at once; the unit that waited for the last load still runs, and its job's update leaves.
    stores: the same for updates, which begin to leave after the first one.
    shared: loads and stores over what all devices share, if anything: a bus or host memory (from contention on).
    """
    copies = None if effects == "theory" else LeastCopies(workload, costs)
    chains = [_chain(job, cluster, costs, copies) for job in workload.jobs]
    rates = _rates(workload, cluster, costs)
    bounds = {
        "longest_job": max(chain.head_s + chain.length_s + chain.after_s for chain in chains),
        "area": _area_s(chains, rates),
        "longest_jobs": _longest_jobs_s(chains, rates),
    }
    if workload.num_units <= _MAX_UNITS:
        bounds["whole_units"] = _whole_units_s(workload, cluster, costs, chains)
    if copies is not None:
        bounds |= _transfer_bounds(workload, cluster, costs, copies, chains)
    if copies is not None and includes(effects, "contention") and (shared_s := _shared_s(workload, cluster, copies)):
        bounds["shared"] = shared_s
    return bounds


def loaded_bytes(job: TrainingJob, room_bytes: int) -> int:
    """Return the bytes of state that a job loads at least, on devices with that much room together.

    A pass of a mini-batch, forward, backward, over update units or to evaluate, touches every shard's state once, all
    of it where it is updated; when it begins, what is on the devices fits their room, so all else is loaded during it,
    whatever stays and whatever is evicted.
    """
    num_forwards = len(job.shards) - (1 if job.fused else 0)
    parameters = [aligned(shard.parameter_bytes) for shard in job.shards]
    forward, updating = max(0, sum(parameters[:num_forwards]) - room_bytes), max(0, state_bytes(job) - room_bytes)
    backward = max(0, sum(parameters) - room_bytes) if job.update_units else 0
    schedule, num_trained = job.schedule, job.schedule.num_trained
    once = state_bytes(job) if schedule.num_steps else sum(parameters)
    if job.host_updates != "no":  # what the host has updated is loaded again, as far as there is a mini-batch to come
        fresh = sum(parameters[shard] for shard in shards_on_host(job))
        once += (-(-num_trained // job.accumulate) - 1) * fresh
    evaluating = (schedule.num_minibatches - num_trained) * max(0, sum(parameters) - room_bytes)
    return max(once, num_trained * (forward + backward) + schedule.num_steps * updating + evaluating)


def stored_bytes(job: TrainingJob, room_bytes: int) -> int:
    """Return the bytes of state that a job stores at least: every update that has no room to stay, and the last one.

    Where the host updates, it is the gradients of every mini-batch.
    """
    if job.host_updates != "no":
        return job.schedule.num_trained * sum(aligned(shard.gradient_bytes) for shard in job.shards)
    state, num_steps = state_bytes(job), job.schedule.num_steps
    return state + (num_steps - 1) * max(0, state - room_bytes) if num_steps else 0


def state_bytes(job: TrainingJob) -> int:
    """Return what a job's state takes."""
    return sum(block_bytes(job, BlockKey("w", job.name, shard, -1)) for shard in range(len(job.shards)))


def _chain(job: TrainingJob, cluster: Cluster, costs: CostModel, copies: LeastCopies | None) -> _Chain:
    length_s = whole_path_s(job, cluster, costs)
    if copies is None:
        return _Chain(job.arrival_s, 0.0, length_s, 0.0)
    chain = Templates.of_job(job)
    first, last = (
        ShardUnit(job.name, *chain.of(minibatch).nodes[index], minibatch)
        for minibatch, index in ((0, 0), (job.num_minibatches - 1, -1))
    )
    need = next(need for key, need in dataflow(job, first).reads if key.kind == "w")
    leaves = block_bytes(job, BlockKey("w", job.name, last.shard, -1)) if updates_state(job, last) else 0
    update_s = 0.0
    if last.shard in shards_updated_after(job, last):
        leaves, update_s = aligned(job.shards[last.shard].gradient_bytes), costs.update_s(job.name, last.shard)
    devices = range(len(cluster.devices))
    before_s = max(min(copies.seconds(need, device, "h2d") for device in devices), costs.fetch_s(job.name))
    after_s = min(copies.seconds(leaves, device, "d2h") for device in devices) + update_s
    return _Chain(job.arrival_s, before_s, length_s, after_s)


def _units(job: TrainingJob, cluster: Cluster, costs: CostModel, minibatch: int) -> Iterator[list[float]]:
    """Yield what each unit of a mini-batch takes, by device; the first mini-batch may have times of its own."""
    for phase, shard in minibatch_dag(job, minibatch).nodes:
        unit = ShardUnit(job.name, phase, shard, minibatch)
        yield [costs.compute_s(unit, device) for device in range(len(cluster.devices))]


def _rates(workload: Workload, cluster: Cluster, costs: CostModel) -> list[float]:
    """Return how much work each device does a second at most, fastest first; work is seconds on the fastest device."""
    rates = [0.0] * len(cluster.devices)
    for job in workload.jobs:
        for minibatch, _ in kinds_of_minibatches(job):
            for seconds in _units(job, cluster, costs, minibatch):
                least = min(seconds)
                if least > 0:
                    rates = [max(rate, least / s) for rate, s in zip(rates, seconds, strict=True)]
    return sorted(rates, reverse=True) if any(rates) else [1.0] * len(rates)


def _area_s(chains: Sequence[_Chain], rates: Sequence[float]) -> float:
    """Return the least time for all work of some jobs, between the earliest start and the least rest of any of them."""
    work_s = sum(chain.length_s for chain in chains)
    least_s = min(chain.head_s for chain in chains) + min(chain.after_s for chain in chains)
    return least_s + work_s / sum(rates[: len(chains)])


def _longest_jobs_s(chains: Sequence[_Chain], rates: Sequence[float]) -> float:
    bound_s = 0.0
    for arrival_s in {chain.arrival_s for chain in chains}:
        later = sorted((c for c in chains if c.arrival_s >= arrival_s), key=lambda c: c.length_s, reverse=True)
        few = range(1, min(len(later), len(rates)))
        bound_s = max(bound_s, *(_area_s(later[:count], rates) for count in (*few, len(later))))
    return bound_s


def _whole_units_s(workload: Workload, cluster: Cluster, costs: CostModel, chains: Sequence[_Chain]) -> float:
    found: list[tuple[float, float, float]] = []  # least seconds, earliest start, least rest
    for job, chain in zip(workload.jobs, chains, strict=True):
        done_s = 0.0
        for minibatch in range(job.num_minibatches):
            for seconds in _units(job, cluster, costs, minibatch):
                rest_s = max(0.0, chain.length_s - done_s - min(seconds))
                found.append((min(seconds), chain.head_s + done_s, rest_s + chain.after_s))
                done_s += min(seconds)
    found.sort(reverse=True)
    num_devices, bound_s, head_s, rest_s = len(cluster.devices), 0.0, math.inf, math.inf
    for count, (_, start_s, after_s) in enumerate(found, 1):
        head_s, rest_s = min(head_s, start_s), min(rest_s, after_s)
        if count > num_devices and count % num_devices == 1 % num_devices:
            together = -(-count // num_devices)
            bound_s = max(bound_s, head_s + sum(least for least, _, _ in found[count - together : count]) + rest_s)
    return bound_s


def _transfer_bounds(
    workload: Workload, cluster: Cluster, costs: CostModel, copies: LeastCopies, chains: Sequence[_Chain]
) -> dict[str, float]:
    room = sum(arena_bytes(workload, cluster))
    devices = range(len(cluster.devices))
    ends = []  # what follows a load at least, and what precedes an update
    for job, chain in zip(workload.jobs, chains, strict=True):
        last_s = min(min(list(_units(job, cluster, costs, m))[-1]) for m in {0, job.num_minibatches - 1})
        units = [ShardUnit(job.name, *node, 0) for node in minibatch_dag(job, 0).nodes]
        first_update = next((i for i, unit in enumerate(units) if updates_state(job, unit)), len(units) - 1)
        until_s = sum(min(seconds) for seconds in list(_units(job, cluster, costs, 0))[: first_update + 1])
        ends.append((last_s + chain.after_s, chain.head_s + until_s))
    moves: tuple[tuple[str, Direction, int, float], ...] = (
        ("loads", "h2d", sum(loaded_bytes(job, room) for job in workload.jobs), min(after for after, _ in ends)),
        ("stores", "d2h", sum(stored_bytes(job, room) for job in workload.jobs), min(before for _, before in ends)),
    )
    rates = {name: [copies.bytes_per_s(device, way) for device in devices] for name, way, _, _ in moves}
    return {name: nbytes / sum(rates[name]) + rest_s for name, _, nbytes, rest_s in moves}


def _shared_s(workload: Workload, cluster: Cluster, copies: LeastCopies) -> float:
    """Return what the busiest of the resources that every copy runs over takes for all state that moves."""
    room = sum(arena_bytes(workload, cluster))
    busy_s: dict[Resource, float] = {}
    directions: tuple[Direction, Direction] = ("h2d", "d2h")
    for direction, least_bytes in zip(directions, (loaded_bytes, stored_bytes), strict=True):
        nbytes = sum(least_bytes(job, room) for job in workload.jobs)
        uses = [_use(cluster, copies, device, direction) for device in range(len(cluster.devices))]
        for resource in set(uses[0]).intersection(*uses[1:]):
            busy_s[resource] = busy_s.get(resource, 0.0) + nbytes * min(use[resource] for use in uses)
    return max((seconds for resource, seconds in busy_s.items()), default=0.0)


def _use(cluster: Cluster, copies: LeastCopies, device: int, direction: Direction) -> dict[Resource, float]:
    """Return for how long a byte takes up all of each resource on its way, at least, whether pinned or not."""
    end = cluster.devices[device]
    rate = copies.bytes_per_s(device, direction, (end.h2d if direction == "h2d" else end.d2h).latency_s)
    found: dict[Resource, float] = {}
    for pinned in (True, False):
        path = cluster.copy_path(device, direction, pinned)
        alone = cluster.copy_bytes_per_s(device, direction, pinned)
        for resource, bytes_per_s in path.items():
            found[resource] = min(found.get(resource, math.inf), alone / bytes_per_s / max(rate, alone))
    return found
