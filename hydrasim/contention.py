"""What commands compete for, and how fast each goes on while others use the same things.

A copy may run over its device's link, a bus behind which other devices lie, and host memory; emulated devices
compute, copy at memory speed and fetch on the host's cores. Every such resource divides itself equally among
those that want all of their share, and what the others leave goes on to these (max-min fairness). Shares change
only when a command begins or ends, so this fluid model is exact at each change. Beside that, units take longer
while other devices compute, by what was measured: they share caches and memory.

    device 0 --link--+              Source: max-min fairness by progressive filling, Bertsekas and Gallager,
    device 1 --link--+-- bus -- host memory        Data Networks (1992), 6.5.2.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from hydrasim.cluster import host_traffic
from hydrasim.command import HOST, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hydrasim.cluster import Cluster, Link
    from hydrasim.command import Command
    from hydrasim.timeline import Timeline

Resource = tuple[str, str]  # what it is, and where
Place = tuple[int, str, int]  # device, kind of command, peer

CORES: Resource = ("cores", "host")
MEMORY: Resource = ("memory", "host")
_DEVICES: Resource = ("devices", "")  # what real devices compute on: each on itself, yet not unaffected
_ROUNDING = 1 + 1e-12


class Flow(NamedTuple):
    """What a kind of command uses: how much of each resource a second at full rate, and with whom it competes.

    latency_s: how long it takes before it uses anything.
    """

    uses: tuple[tuple[Resource, float], ...]
    domain: Resource
    latency_s: float = 0.0


def max_min(users: Sequence[Sequence[tuple[Resource, float]]], capacity: Mapping[Resource, float]) -> list[float]:
    """Return the rate of each user, at most 1, that max-min fairness gives it.

    users: how much of which resources each takes at rate 1. Resources divide themselves equally in their own
    unit, so flows of one unit, such as bytes a second, get their textbook shares.
    """
    rates = [0.0] * len(users)
    left = dict(capacity)
    active = list(range(len(users)))
    while active:
        count: dict[Resource, int] = {}
        for user in active:
            for resource, _ in users[user]:
                count[resource] = count.get(resource, 0) + 1
        level = {resource: max(0.0, left[resource]) / number for resource, number in count.items()}
        offer = {user: min(((level[r] / use, r) for r, use in users[user]), default=(1.0, CORES)) for user in active}
        settled = [user for user in active if offer[user][0] >= 1.0]
        if not settled:
            settled = _at_a_bottleneck(users, offer, level)
        for user in settled:
            rates[user] = min(1.0, offer[user][0])
            for resource, use in users[user]:
                left[resource] -= use * rates[user]
        done = set(settled)
        active = [user for user in active if user not in done]
    return rates


def _at_a_bottleneck(
    users: Sequence[Sequence[tuple[Resource, float]]],
    offer: dict[int, tuple[float, Resource]],
    level: dict[Resource, float],
) -> list[int]:
    """Return the users of a resource that none of them gets less elsewhere; failing that, who gets least."""
    for resource, share in level.items():
        own = [(user, use) for user in offer for r, use in users[user] if r == resource]
        if all(offer[user][0] == share / use for user, use in own):
            return [user for user, _ in own]
    return [min(offer, key=lambda user: offer[user][0])]


class Contention:
    """Which commands of a cluster compete, and for what.

    slowdown: by job and number of devices that compute, how many times longer its units take than alone.
    pinned: copies are from and to page-locked host memory.
    """

    def __init__(
        self, cluster: Cluster, slowdown: Callable[[str, int], float] = lambda *_: 1.0, *, pinned: bool = True
    ) -> None:
        self._slowdown, self._cluster, self._pinned = slowdown, cluster, pinned
        self._capacity: dict[Resource, float] = {
            CORES: math.inf if cluster.host_cores is None else float(cluster.host_cores),
            MEMORY: cluster.host_bytes_per_s,
        }
        for bus in cluster.buses:
            for direction in ("in", "out") if bus.duplex == "full" else ("both",):
                self._capacity[f"bus {direction}", bus.name] = bus.bytes_per_s
        self._duplex = {bus.name: bus.duplex for bus in cluster.buses}
        uses = self._uses_by_place()
        self._capacity = {resource: size for resource, size in self._capacity.items() if math.isfinite(size)}
        self._flows = self._competing(uses)

    def flow_of(self, device: int, kind: str, peer: int = HOST) -> Flow | None:
        """Return what commands of this kind on this device compete for, None when they have it to themselves."""
        return self._flows.get((device, kind, peer))

    def rates(self, flows: Sequence[Flow], commands: Sequence[Command]) -> list[float]:
        """Return how fast each of the commands of one domain goes, 1 when as fast as alone."""
        shares = self.shares(flows)
        computing = [command.kind is Kind.COMPUTE for command in commands]
        num_computing = sum(computing)
        if num_computing < 2:
            return shares
        return [
            share / self._slowdown(command.unit.job, num_computing) if computes else share
            for share, command, computes in zip(shares, commands, computing, strict=True)
        ]

    def shares(self, flows: Sequence[Flow]) -> list[float]:
        """Return the rates that max-min fairness gives flows of one domain."""
        load: dict[Resource, float] = {}
        for flow in flows:
            for resource, use in flow.uses:
                load[resource] = load.get(resource, 0.0) + use
        if all(amount <= self._capacity[resource] * _ROUNDING for resource, amount in load.items()):
            return [1.0] * len(flows)
        return max_min([flow.uses for flow in flows], self._capacity)

    def _uses_by_place(self) -> dict[Place, tuple[dict[Resource, float], float]]:
        """Return by place what commands use of anything, and their latency."""
        cluster, found = self._cluster, dict[Place, tuple[dict[Resource, float], float]]()
        for index, device in enumerate(cluster.devices):
            for kind, link in ((Kind.LOAD, device.h2d), (Kind.STORE, device.d2h)):
                found[index, kind.value, HOST] = self._copy(index, link, "out" if kind is Kind.LOAD else "in")
            found[index, Kind.COMPUTE.value, HOST] = ({CORES if device.on_host else _DEVICES: 1.0}, 0.0)
            found[index, Kind.GATHER.value, HOST] = self._send(index, index)
            found[index, Kind.UPDATE.value, HOST] = self._update()
            for peer in range(len(cluster.devices)):
                if peer != index:
                    found[index, Kind.SEND.value, peer] = self._send(index, peer)
        found[HOST, Kind.FETCH.value, HOST] = ({CORES: 1.0}, 0.0)
        if cluster.disk is not None:
            for kind, link in ((Kind.READ, cluster.disk.read), (Kind.WRITE, cluster.disk.write)):
                found[HOST, kind.value, HOST] = ({MEMORY: link.bytes_per_s}, link.latency_s)
        return found

    def _copy(self, index: int, link: Link, direction: str) -> tuple[dict[Resource, float], float]:
        """Return what a copy between host and device uses at full rate."""
        device = self._cluster.devices[index]
        rate = self._cluster.copy_bytes_per_s(index, "h2d" if direction == "out" else "d2h", self._pinned)
        if math.isinf(rate):
            return ({CORES: 1.0} if device.on_host else {}), link.latency_s
        uses = {MEMORY: rate * host_traffic(device, self._pinned)} | self._over_bus(link, direction, rate)
        if device.on_host and math.isinf(link.bytes_per_s):
            uses[CORES] = 1.0
        if device.duplex == "half":
            self._capacity["link", str(index)] = 1.0
            uses["link", str(index)] = 1.0
        return uses, link.latency_s

    def _send(self, source: int, target: int) -> tuple[dict[Resource, float], float]:
        """Return what bytes from one device to another use at full rate; both are one for a collective."""
        devices, rate = self._cluster.devices, self._cluster.send_bytes_per_s(source, target)
        out, back = devices[source].peer, devices[target].peer
        if out is not None and back is not None:
            uses = {("egress", str(source)): rate, ("ingress", str(target)): rate}
            self._capacity["egress", str(source)] = out.bytes_per_s
            self._capacity["ingress", str(target)] = back.bytes_per_s
            if not math.isinf(rate):
                for bus in (self._over_bus(out, "in", rate), self._over_bus(back, "out", rate)):
                    for resource, use in bus.items():
                        uses[resource] = uses.get(resource, 0.0) + use
            return uses, max(out.latency_s, back.latency_s)
        up, down = self._copy(source, devices[source].d2h, "in"), self._copy(target, devices[target].h2d, "out")
        uses = dict.fromkeys((*up[0], *down[0]), 0.0)
        own_rates = (self._cluster.copy_bytes_per_s(source, "d2h"), self._cluster.copy_bytes_per_s(target, "h2d"))
        for half, own in zip((up[0], down[0]), own_rates, strict=True):
            for resource, use in half.items():
                uses[resource] += use if math.isinf(own) else use * rate / own
        return uses, up[1] + down[1]

    def _update(self) -> tuple[dict[Resource, float], float]:
        """Return what an optimizer's step on the host uses at full rate: all memory, and its rank's cores."""
        cluster = self._cluster
        cores = 0.0 if cluster.host_cores is None else cluster.host_cores / len(cluster.devices)
        return {CORES: cores, MEMORY: cluster.host_bytes_per_s}, 0.0

    def _over_bus(self, link: Link, direction: str, rate: float) -> dict[Resource, float]:
        if not link.shared:
            return {}
        way = direction if self._duplex[link.shared] == "full" else "both"
        return {(f"bus {way}", link.shared): rate}

    def _competing(self, found: dict[Place, tuple[dict[Resource, float], float]]) -> dict[Place, Flow]:
        """Keep what is limited, and find the domains: places that share no resource never meet."""
        domain: dict[Resource, Resource] = {}

        def root(resource: Resource) -> Resource:
            while domain.setdefault(resource, resource) != resource:
                resource = domain[resource]
            return resource

        limited: dict[Place, tuple[tuple[Resource, float], ...]] = {}
        for place, (uses, _) in found.items():
            limited[place] = tuple((r, use) for r, use in uses.items() if r in self._capacity and use > 0)
            for resource, _use in limited[place]:
                domain[root(resource)] = root(limited[place][0][0])
        computes = {place for place in found if place[1] == Kind.COMPUTE.value}
        return {
            place: Flow(limited[place], root(limited[place][0][0]) if limited[place] else _DEVICES, found[place][1])
            for place in found
            if limited[place] or place in computes
        }


def uncontended_s(timeline: Timeline, cluster: Cluster) -> Mapping[int, float]:
    """Return by span number the seconds that each span of a run would have taken with nothing to share.

    Counted from when the span could have begun; the inverse of what a simulation with contention does,
    but for the slowdown of units beside other devices.
    """
    contention = Contention(cluster)
    ready_s = timeline.ready_s()
    alone_s = {span.number: span.end_s - ready_s[span.number] for span in timeline.spans}
    users: dict[Resource, list[tuple[float, bool, int]]] = {}  # (time, whether it ends, span number)
    flows: dict[int, Flow] = {}
    for span in timeline.spans:
        flow = contention.flow_of(span.device, span.kind)
        if flow is not None:
            flows[span.number] = flow
            begin_s = min(ready_s[span.number] + flow.latency_s, span.end_s)
            users.setdefault(flow.domain, []).extend(((begin_s, False, span.number), (span.end_s, True, span.number)))
            alone_s[span.number] = begin_s - ready_s[span.number]
    for edges in users.values():
        active: dict[int, Flow] = {}
        edges.sort()
        for (now_s, ends, number), (next_s, _, _) in pairwise(edges):
            if ends:
                del active[number]
            else:
                active[number] = flows[number]
            if active and next_s > now_s:
                for user, share in zip(active, contention.shares(list(active.values())), strict=True):
                    alone_s[user] += (next_s - now_s) * share
    return alone_s
