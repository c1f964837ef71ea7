"""What commands compete for, and how fast each goes on while others use the same thing.

Links behind one root complex carry so many bytes a second together; emulated devices compute, and copy
at memory speed, on the host's cores. Whoever uses a thing gets an equal share of it, at every moment. Beside
that, units take longer while other devices compute, by what was measured: they share caches and memory.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

from hydrasim.command import HOST, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hydrasim.cluster import Cluster
    from hydrasim.command import Command
    from hydrasim.timeline import Timeline

Resource = tuple[str, str]  # what it is, and where
CORES: Resource = ("cores", "host")
_DEVICES: Resource = ("devices", "")  # what real devices compute on: each on itself, yet not unaffected


class Contention:
    """Which commands of a cluster compete, and for what.

    slowdown: by job, how many times longer its units take while all other devices compute.
    """

    def __init__(self, cluster: Cluster, slowdown: Callable[[str], float] = lambda _: 1.0) -> None:
        self._slowdown, self._num_others = slowdown, max(1, len(cluster.devices) - 1)
        self._uses: dict[tuple[int, str], Resource] = {}
        self._num_cores = math.inf if cluster.host_cores is None else float(cluster.host_cores)
        shared = [device.root_complex for device in cluster.devices]
        for index, device in enumerate(cluster.devices):
            for kind, link in ((Kind.LOAD.value, device.h2d), (Kind.STORE.value, device.d2h)):
                at_memory_speed = math.isinf(link.bytes_per_s)
                if shared.count(device.root_complex) > 1 and device.root_complex and not at_memory_speed:
                    self._uses[index, kind] = (kind, device.root_complex)
                elif device.on_host and at_memory_speed:
                    self._uses[index, kind] = CORES
            self._uses[index, Kind.COMPUTE.value] = CORES if device.on_host else _DEVICES
        if any(device.on_host for device in cluster.devices):
            self._uses[HOST, Kind.FETCH.value] = CORES

    def resource_of(self, device: int, kind: str) -> Resource | None:
        """Return what commands of this kind compete for on this device, None when they have it to themselves."""
        return self._uses.get((device, kind))

    def share(self, resource: Resource, num_users: int) -> float:
        """Return what each of so many users gets, 1 when as much as alone."""
        if resource == _DEVICES or not num_users:
            return 1.0
        return min(1.0, (self._num_cores if resource == CORES else 1.0) / num_users)

    def rates(self, resource: Resource, users: Sequence[Command]) -> list[float]:
        """Return how fast each user goes, 1 when as fast as alone."""
        share = self.share(resource, len(users))
        num_computing = sum(user.kind is Kind.COMPUTE for user in users)
        if num_computing < 2:
            return [share] * len(users)
        others = (num_computing - 1) / self._num_others
        return [
            share / (1.0 + (self._slowdown(user.unit.job) - 1.0) * others) if user.kind is Kind.COMPUTE else share
            for user in users
        ]


def uncontended_s(timeline: Timeline, cluster: Cluster) -> Mapping[int, float]:
    """Return by span number the seconds that each span of a run would have taken with nothing to share.

    Counted from when the span could have begun; the inverse of what a simulation with contention does,
    but for the slowdown of units beside other devices.
    """
    contention = Contention(cluster)
    ready_s = timeline.ready_s()
    alone_s = {span.number: span.end_s - ready_s[span.number] for span in timeline.spans}
    users: dict[Resource, list[tuple[float, bool, int]]] = {}  # (time, whether it ends, span number)
    for span in timeline.spans:
        resource = contention.resource_of(span.device, span.kind)
        if resource is not None:
            edges = users.setdefault(resource, [])
            edges += [(ready_s[span.number], False, span.number), (span.end_s, True, span.number)]
            alone_s[span.number] = 0.0
    for resource, edges in users.items():
        active: set[int] = set()
        edges.sort()
        for (now_s, ends, number), (next_s, _, _) in pairwise(edges):
            if ends:
                active.remove(number)
            else:
                active.add(number)
            if active and next_s > now_s:
                work_s = (next_s - now_s) * contention.share(resource, len(active))
                for user in sorted(active):
                    alone_s[user] += work_s
    return alone_s
