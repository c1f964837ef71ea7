"""What commands compete for, and how fast each goes on while others use the same things.

A copy may run over its device's link, a bus behind which other devices lie, and host memory; emulated devices
compute, copy and fetch on the host's cores. Every such resource divides itself equally among those that want all
of their share, and what the others leave goes on to these (max-min fairness). Shares change only when a command
begins or ends, so this fluid model is exact at each change. Beside that, units take longer while other devices
compute, by what was measured: they share caches and memory.

    device 0 --link--+              Source: max-min fairness by progressive filling, Bertsekas and Gallager,
    device 1 --link--+-- bus -- host memory        Data Networks (1992), 6.5.2.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from hydrasim.cluster import MEMORY, Path, Resource, bandwidth
from hydrasim.command import HOST, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hydrasim.cluster import Cluster, Link
    from hydrasim.command import Command
    from hydrasim.timeline import Timeline

Uses = tuple[tuple[Resource, float], ...]  # which part of each resource something takes at full rate

CORES: Resource = ("cores", "host")
_ROUNDING = 1e-12  # what sums of shares may be off; as a part of a resource, too little to notice
_NUM_REMEMBERED = 1 << 14


class Flow(NamedTuple):
    """What commands of one kind at one place compete for.

    number: names it within its `Contention`. latency_s: how long it takes before it uses anything.
    """

    number: int
    uses: Uses
    latency_s: float = 0.0


def max_min(users: Sequence[Uses]) -> list[float]:
    """Return the rate of each user, at most 1, that max-min fairness gives it.

    Resources divide themselves equally. Where users take different mixtures of them, so that none is everyone's
    scarcest, what is tightest if all go equally fast slows all of its users alike.
    """
    rates = [0.0] * len(users)
    active = dict(enumerate(users))
    left: dict[Resource, float] = {resource: 1.0 for uses in users for resource, _ in uses}
    while active:
        settled = _settled(active, left)
        for user, rate in settled.items():
            rates[user] = rate
            for resource, use in active.pop(user):
                left[resource] = max(_ROUNDING, left[resource] - use * rate)
    return rates


def _settled(active: dict[int, Uses], left: dict[Resource, float]) -> dict[int, float]:
    """Return the rates of those users whom nobody's choice can change any more."""
    users_of: dict[Resource, dict[int, float]] = {}
    for user, uses in active.items():
        for resource, use in uses:
            users_of.setdefault(resource, {})[user] = use
    level = {resource: left[resource] / len(users) for resource, users in users_of.items()}
    offer = {user: min((level[r] / use for r, use in uses), default=1.0) for user, uses in active.items()}
    if satisfied := {user: 1.0 for user, rate in offer.items() if rate >= 1 - _ROUNDING}:
        return satisfied
    bottlenecks = [
        users
        for resource, users in users_of.items()
        if all(offer[user] >= level[resource] / use * (1 - _ROUNDING) for user, use in users.items())
    ]
    if bottlenecks:
        return {user: offer[user] for users in bottlenecks for user in users}
    alike = {resource: left[resource] / sum(users.values()) for resource, users in users_of.items()}
    least = min(alike.values())
    if least >= 1:
        return dict.fromkeys(active, 1.0)
    tightest = [users_of[resource] for resource, rate in alike.items() if rate <= least * (1 + _ROUNDING)]
    return dict.fromkeys((user for users in tightest for user in users), least)


class Contention:
    """Which commands of a cluster compete, and for what.

    slowdown: by job and number of devices that compute, how many times longer its units take than alone.
    pinned: copies are from and to page-locked host memory.
    """

    def __init__(
        self, cluster: Cluster, slowdown: Callable[[str, int], float] = lambda *_: 1.0, *, pinned: bool = True
    ) -> None:
        self._slowdown, self._cluster, self._pinned = cache(slowdown), cluster, pinned
        self._flows: list[Flow] = []
        self._core = 0.0 if cluster.host_cores is None else 1 / cluster.host_cores  # which part of them one is
        self.flow_of = cache(self._flow_of)
        self._shares_of = lru_cache(_NUM_REMEMBERED)(self._max_min)

    def _flow_of(self, device: int, kind: Kind, peer: int = HOST) -> Flow | None:
        """Return what commands of this kind on this device compete for, None when they have it to themselves."""
        found, latency_s = self._uses(device, kind, peer)
        uses = tuple((resource, use) for resource, use in found.items() if use)
        if not uses and kind is not Kind.COMPUTE:
            return None
        self._flows.append(Flow(len(self._flows), uses, latency_s))
        return self._flows[-1]

    def rates(self, flows: Sequence[Flow], commands: Sequence[Command]) -> list[float]:
        """Return how fast each command goes, 1 when as fast as alone."""
        rates = self.shares(flows)
        computing = [place for place, command in enumerate(commands) if command.kind is Kind.COMPUTE]
        if len(computing) > 1:
            for place in computing:
                rates[place] /= self._slowdown(commands[place].unit.job, len(computing))
        return rates

    def shares(self, flows: Sequence[Flow]) -> list[float]:
        """Return the rates that max-min fairness gives flows, whatever their order."""
        found = self._shares_of(tuple(sorted([flow.number for flow in flows if flow.uses])))
        return [found.get(flow.number, 1.0) for flow in flows]

    def _max_min(self, numbers: tuple[int, ...]) -> dict[int, float]:
        uses = [self._flows[number].uses for number in numbers]
        total: dict[Resource, float] = {}
        for resource, use in (item for each in uses for item in each):
            total[resource] = total.get(resource, 0.0) + use
        if all(use <= 1 + _ROUNDING for use in total.values()):
            return dict.fromkeys(numbers, 1.0)
        return dict(zip(numbers, max_min(uses), strict=True))

    def _uses(self, device: int, kind: Kind, peer: int) -> tuple[dict[Resource, float], float]:
        """Return which part of each resource commands take at full rate, and their latency."""
        cluster = self._cluster
        if kind is Kind.COMPUTE:
            return ({CORES: self._core} if cluster.devices[device].on_host else {}), 0.0
        if kind in (Kind.FETCH, Kind.RESTORE) or (kind is Kind.UPDATE and device == HOST):
            return {CORES: self._core}, 0.0
        if kind is Kind.UPDATE:  # a rival's: what of memory a core copies, and the cores of its rank
            limited = math.isfinite(cluster.host_bytes_per_s)
            memory = min(1.0, cluster.core_copy_bytes_per_s / cluster.host_bytes_per_s) if limited else 0.0
            return {CORES: 1 / len(cluster.devices) if self._core else 0.0, MEMORY: memory}, 0.0
        if kind in (Kind.SEND, Kind.GATHER):
            path, ends = cluster.send_path(device, peer), (cluster.devices[device], cluster.devices[peer])
            links = [end.peer for end in ends] if all(end.peer for end in ends) else [ends[0].d2h, ends[1].h2d]
            cores = sum(self._cores(link, path) for end, link in zip(ends, links, strict=True) if end.on_host)
            return _parts(path) | {CORES: min(1.0, cores)}, cluster.send_latency_s(device, peer)
        if kind in (Kind.READ, Kind.WRITE, Kind.SAVE):
            disk = cluster.disk
            latency_s = 0.0 if disk is None else (disk.read if kind is Kind.READ else disk.write).latency_s
            return _parts(cluster.disk_path("read" if kind is Kind.READ else "write")), latency_s
        end = cluster.devices[device]
        path = cluster.copy_path(device, "h2d" if kind is Kind.LOAD else "d2h", self._pinned)
        link = end.h2d if kind is Kind.LOAD else end.d2h
        return _parts(path) | {CORES: self._cores(link, path) if end.on_host else 0.0}, link.latency_s

    def _cores(self, link: Link | None, path: Path) -> float:
        """Return which part of the host's cores copying over an emulated device's link takes."""
        if link is None or math.isinf(link.bytes_per_s):  # at memory speed
            return self._core
        return min(1.0, bandwidth(path) / self._cluster.core_copy_bytes_per_s) * self._core


def _parts(path: Path) -> dict[Resource, float]:
    """Return which part of each resource a copy takes that runs over this path alone."""
    return {resource: bandwidth(path) / bytes_per_s for resource, bytes_per_s in path.items()}


def uncontended_s(timeline: Timeline, cluster: Cluster, *, pinned: bool = True) -> Mapping[int, float]:
    """Return by span number the seconds that each span of a run would have taken with nothing to share.

    Counted from when the span could have begun; the inverse of what a simulation with contention does,
    but for the slowdown of units beside other devices.
    """
    contention = Contention(cluster, pinned=pinned)
    ready_s = timeline.ready_s()
    alone_s = {span.number: span.end_s - ready_s[span.number] for span in timeline.spans}
    edges: list[tuple[float, bool, int]] = []  # (time, whether it ends, span number)
    flows: dict[int, Flow] = {}
    for span in timeline.spans:
        flow = contention.flow_of(span.device, Kind(span.kind), span.peer)
        if flow is not None and flow.uses:
            flows[span.number] = flow
            begin_s = min(ready_s[span.number] + flow.latency_s, span.end_s)
            edges += (begin_s, False, span.number), (span.end_s, True, span.number)
            alone_s[span.number] = begin_s - ready_s[span.number]
    active: dict[int, Flow] = {}
    for (now_s, ends, number), (next_s, _, _) in pairwise(sorted(edges)):
        if ends:
            del active[number]
        else:
            active[number] = flows[number]
        if next_s > now_s:
            for user, share in zip(active, contention.shares(list(active.values())), strict=True):
                alone_s[user] += (next_s - now_s) * share
    return alone_s
