"""Random flows over links, buses and host memory, for the simulator and for SimGrid, which knows nothing of it.

    python -m tests.hydrasim.simgrid_flows    # with SimGrid 4 installed; writes data/simgrid_flows.json

SimGrid shares bandwidth by its own linear max-min solver. Here it is set to pure fluid flows: no slow start, no
window, no round-trip bias, no cross traffic. The file keeps its answers, since few machines can build it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from random import Random
from typing import Any

from hydrasim import Bus, Cluster, Device, Link
from hydrasim.command import HOST, Command, Kind, Lane
from hydrasim.workload import Phase, ShardUnit

ANSWERS = Path(__file__).parent / "data" / "simgrid_flows.json"
NUM_CASES = 240
_MB = 10**6
_LANES = {Kind.LOAD: Lane.H2D, Kind.STORE: Lane.D2H, Kind.SEND: Lane.PEER}
_SETTINGS = (
    "network/model:CM02",
    "network/latency-factor:1",
    "network/bandwidth-factor:1",
    "network/weight-S:0",
    "network/TCP-gamma:0",
    "network/crosstraffic:0",
    "precision/timing:1e-12",
    "precision/work-amount:1e-9",
)


@dataclass(frozen=True)
class Flow:
    """Bytes that start to move at a time, unless their lane is still busy."""

    kind: Kind
    device: int
    peer: int
    start_s: float
    nbytes: int

    @property
    def lane(self) -> tuple[int, str]:
        return self.device, self.kind.value


@dataclass(frozen=True)
class Case:
    """A cluster, and flows lane by lane in the order in which they start."""

    cluster: Cluster
    flows: tuple[Flow, ...]

    def commands(self) -> list[Command]:
        unit = ShardUnit("A", Phase.FORWARD, 0, 0)
        return [
            Command(number, flow.kind, flow.device, _LANES[flow.kind], unit, nbytes=flow.nbytes, peer=flow.peer)
            for number, flow in enumerate(self.flows)
        ]


def cases() -> list[Case]:
    """Draw the cases, each from a seed of its own."""
    return [_case(Random(f"simgrid {seed}")) for seed in range(NUM_CASES)]


def _case(random: Random) -> Case:
    buses = tuple(
        Bus(name, random.randint(2, 24) * _MB / 2, "half" if name == "c" and random.random() < 0.5 else "full")
        for name in "abc"
    )
    devices = []
    for _ in range(random.randint(2, 7)):
        rate, duplex = random.randint(1, 16) * _MB / 2, "half" if random.random() < 0.3 else "full"
        h2d, d2h = (
            Link(
                rate if duplex == "half" else random.randint(1, 16) * _MB / 2,
                random.choice((0, 0.25, 0.5)),
                shared=random.choice("abc"),
            )
            for _ in range(2)
        )
        peer = Link(random.randint(1, 16) * _MB / 2, random.choice((0, 0.125)), shared=random.choice(("", "a", "b")))
        devices.append(Device(1, h2d=h2d, d2h=d2h, duplex=duplex, peer=peer))
    flows = []
    for _ in range(random.randint(2, 16)):
        kind, (device, peer) = random.choice(list(_LANES)), random.sample(range(len(devices)), 2)
        start_s, nbytes = random.choice((0, 0, random.randint(1, 64) / 16)), random.randint(1, 64) * _MB // 4
        flows.append(Flow(kind, device, peer if kind is Kind.SEND else HOST, start_s, nbytes))
    flows.sort(key=lambda flow: (flow.lane, flow.start_s))
    return Case(Cluster(tuple(devices), buses=buses, host_bytes_per_s=random.randint(4, 40) * _MB / 2), tuple(flows))


def simgrid_finish_s(chosen: list[Case]) -> list[list[float]]:
    """Return when each flow of each case ends by SimGrid; a process can do this once."""
    import simgrid

    engine = simgrid.Engine(["flows", "--log=root.thresh:critical", *(f"--cfg={setting}" for setting in _SETTINGS)])
    root = engine.netzone_root
    finish_s = [[0.0] * len(case.flows) for case in chosen]
    for number, case in enumerate(chosen):
        zone = root.add_netzone_full(f"case {number}")
        links: dict[str, Any] = {}
        ends = []
        for index, flow in enumerate(case.flows):
            source, target = (zone.add_host(f"{end} {number} {index}", 1.0) for end in ("from", "to"))
            for name, bytes_per_s in _route(case.cluster, flow):
                if name not in links:
                    links[name] = zone.add_link(f"{number} {name}", bytes_per_s).seal()
            route = [simgrid.LinkInRoute(links[name]) for name, _ in _route(case.cluster, flow)]
            zone.add_route(source, target, route, False)
            ends.append((source, target))
        zone.seal()
        for _, lane in groupby(range(len(case.flows)), key=lambda index, flows=case.flows: flows[index].lane):
            ends[0][0].add_actor("lane", _walk, case, list(lane), ends, finish_s[number])
    engine.run()
    return finish_s


def _walk(case: Case, lane: list[int], ends: list[tuple[Any, Any]], finish_s: list[float]) -> None:
    """Send a lane's flows one after another; latency is slept, since SimGrid would weigh shares by it."""
    import simgrid

    for index in lane:
        flow = case.flows[index]
        simgrid.this_actor.sleep_until(max(simgrid.Engine.clock, flow.start_s))
        simgrid.this_actor.sleep_for(_latency_s(case.cluster, flow))
        simgrid.Comm.sendto(*ends[index], flow.nbytes)
        finish_s[index] = simgrid.Engine.clock


def _route(cluster: Cluster, flow: Flow) -> Iterator[tuple[str, float]]:
    """Name what a flow runs over, as a reader of the cluster's fields would."""
    buses = {bus.name: bus for bus in cluster.buses}
    device = cluster.devices[flow.device]
    if flow.kind is Kind.SEND:
        legs = [
            (device.peer, "peer out", flow.device, "in"),
            (cluster.devices[flow.peer].peer, "peer in", flow.peer, "out"),
        ]
    elif flow.kind is Kind.LOAD:
        legs = [(device.h2d, "link" if device.duplex == "half" else "h2d", flow.device, "out")]
    else:
        legs = [(device.d2h, "link" if device.duplex == "half" else "d2h", flow.device, "in")]
    for link, name, index, way in legs:
        assert link is not None
        yield f"{name} {index}", link.bytes_per_s
        if link.shared:
            bus = buses[link.shared]
            yield (f"bus {bus.name}" if bus.duplex == "half" else f"bus {bus.name} {way}"), bus.bytes_per_s
    if flow.kind is not Kind.SEND:
        yield "memory", cluster.host_bytes_per_s


def _latency_s(cluster: Cluster, flow: Flow) -> float:
    device = cluster.devices[flow.device]
    if flow.kind is Kind.SEND:
        assert device.peer is not None
        return max(device.peer.latency_s, cluster.devices[flow.peer].peer.latency_s)  # type: ignore[union-attr]
    return (device.h2d if flow.kind is Kind.LOAD else device.d2h).latency_s


def main() -> None:
    """Write SimGrid's answers, to ten digits."""
    import simgrid

    finish_s = [[float(f"{end_s:.10g}") for end_s in ends] for ends in simgrid_finish_s(cases())]
    header = {
        "simgrid": simgrid.simgrid_version,
        "command": "python -m tests.hydrasim.simgrid_flows",
        "settings": _SETTINGS,
    }
    rows = ",\n ".join(json.dumps(ends) for ends in finish_s)
    ANSWERS.parent.mkdir(exist_ok=True)
    ANSWERS.write_text(json.dumps(header)[:-1] + f',\n"finish_s": [\n {rows}]}}\n')


if __name__ == "__main__":
    main()
