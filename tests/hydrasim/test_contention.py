"""Max-min shares against definitions, closed forms and SimGrid; and the inverse of a simulation with contention."""

from __future__ import annotations

import importlib.util
import json
import math
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrasim import Bus, Cluster, Device, Link, Shard, Timeline, TrainingJob, simulate
from hydrasim.cluster import MEMORY, Disk
from hydrasim.command import HOST, Command, Kind, Lane
from hydrasim.contention import CORES, Contention, max_min, uncontended_s
from hydrasim.profile import StatedCosts
from hydrasim.sim_backend import SimBackend
from hydrasim.systems import simulate_system
from hydrasim.workload import Phase, ShardUnit, Workload
from tests.hydrasim import simgrid_flows
from tests.hydrasim.simgrid_flows import Case, Flow
from tests.invariants.strategies import BUSES, LINKS
from tests.worlds import BLOCK, BYTE_A_SECOND, Script, heavy, job, times, workload

Route = tuple[str, ...]


def shares(capacity: dict[str, int], flows: list[tuple[Route, int]]) -> list[float]:
    """Return what flows of a route and a demand get, in the unit of the capacities."""
    uses = [tuple(((name, ""), demand / capacity[name]) for name in route) for route, demand in flows]
    return [rate * demand for rate, (_, demand) in zip(max_min(uses), flows, strict=True)]


def water_filled(capacity: dict[str, int], flows: list[tuple[Route, int]]) -> list[Fraction]:
    """Raise all flows at one level, exactly, and stop each at its demand or where a link is full."""
    share, growing = [Fraction(0)] * len(flows), set(range(len(flows)))
    while growing:
        room = [Fraction(flows[i][1]) - share[i] for i in growing]
        for name, size in capacity.items():
            over = [i for i, (route, _) in enumerate(flows) if name in route]
            if moving := growing.intersection(over):
                room.append((size - sum(share[i] for i in over)) / len(moving))
        for i in growing:
            share[i] += min(room)
        full = {n for n, size in capacity.items() if sum(share[i] for i, (r, _) in enumerate(flows) if n in r) == size}
        growing = {i for i in growing if share[i] < flows[i][1] and not full.intersection(flows[i][0])}
    return share


def test_a_flow_over_every_link_of_a_line_gets_as_much_as_each_beside_it():
    flows = [(("a", "b", "c"), 9), (("a",), 9), (("b",), 9), (("c",), 9)]
    assert shares({"a": 8, "b": 8, "c": 8}, flows) == pytest.approx([4, 4, 4, 4], rel=1e-12)
    assert shares({"a": 8, "b": 2, "c": 4}, flows) == pytest.approx([1, 7, 1, 3], rel=1e-12)


def test_in_a_parking_lot_the_link_of_all_decides():
    # a: 1 . .    who joins later pays no less: the last link, which all use, is everyone's scarcest
    flows = [(("a", "b", "c"), 9), (("b", "c"), 9), (("c",), 9)]
    assert shares({"a": 6, "b": 6, "c": 6}, flows) == pytest.approx([2, 2, 2], rel=1e-12)


def test_what_a_bottleneck_leaves_elsewhere_goes_to_the_others():
    # three over b, so 1/3 each; on a and c one of them is left beside one other
    flows = [(("a",), 1), (("a", "b"), 1), (("b", "c"), 1), (("c",), 1), (("b",), 1)]
    assert shares({"a": 1, "b": 1, "c": 1}, flows) == pytest.approx([2 / 3, 1 / 3, 1 / 3, 2 / 3, 1 / 3], rel=1e-12)


def test_who_wants_less_than_an_equal_share_gets_it():
    assert shares({"a": 12}, [(("a",), 2), (("a",), 9), (("a",), 12)]) == pytest.approx([2, 5, 5], rel=1e-12)


@st.composite
def networks(draw: st.DrawFn) -> tuple[dict[str, int], list[tuple[Route, int]]]:
    capacity = {name: draw(st.integers(1, 20)) for name in "abcde"[: draw(st.integers(1, 5))]}
    route = st.lists(st.sampled_from(sorted(capacity)), unique=True, min_size=1).map(tuple)
    return capacity, draw(st.lists(st.tuples(route, st.integers(1, 12)), min_size=1, max_size=8))


@given(networks())
def test_flows_of_one_unit_get_exactly_the_max_min_shares(network: tuple[dict[str, int], list[tuple[Route, int]]]):
    assert shares(*network) == pytest.approx([float(share) for share in water_filled(*network)], rel=1e-9)


MIXTURES = st.lists(
    st.dictionaries(st.sampled_from("abcd"), st.sampled_from([0.01, 0.1, 0.3, 0.5, 0.6, 0.8, 1.0, 2.0]), min_size=1),
    min_size=1,
)


@given(mixtures=MIXTURES, random=st.randoms())
def test_any_mixture_is_feasible_wastes_nothing_and_knows_no_order(mixtures: list[dict[str, float]], random):
    users = [tuple(((name, ""), use) for name, use in uses.items()) for uses in mixtures]
    rates = max_min(users)
    used = {name: sum(uses.get(name, 0) * r for uses, r in zip(mixtures, rates, strict=True)) for name in "abcd"}
    assert all(amount <= 1 + 1e-9 for amount in used.values())
    assert all(0 < rate <= 1 for rate in rates)
    for uses, rate in zip(mixtures, rates, strict=True):
        assert rate == 1 or any(used[name] >= 1 - 1e-9 for name in uses)
    order = random.sample(range(len(users)), len(users))
    assert max_min([users[i] for i in order]) == pytest.approx([rates[i] for i in order], rel=1e-9)


def test_where_nothing_is_everyones_scarcest_the_tightest_slows_its_users_alike():
    # each has another scarcest: 0 has a, 1 has b; at equal pace a is full first, at 1 / 1.5
    first, second = ((("a", ""), 1.0), (("b", ""), 0.4)), ((("a", ""), 0.5), (("b", ""), 1.0))
    assert max_min([first, second]) == pytest.approx([2 / 3, 2 / 3])


def test_more_than_an_equal_share_is_had_where_others_want_less():
    # 0 wants more than half of a, 1 more than half of b, and both together no more than there is
    assert max_min([((("a", ""), 0.8), (("b", ""), 0.1)), ((("a", ""), 0.1), (("b", ""), 0.8))]) == [1.0, 1.0]


@given(
    links=st.lists(st.tuples(LINKS, LINKS, st.none() | LINKS), min_size=2, max_size=3),
    buses=BUSES,
    memory=st.sampled_from([100.0, math.inf]),
    duplex=st.sampled_from(["full", "half"]),
    pinned=st.booleans(),
    on_host=st.booleans(),
)
def test_alone_everything_goes_at_full_rate(links, buses, memory: float, duplex: str, pinned: bool, on_host: bool):
    found = [Device(1, h2d=h2d, d2h=d2h, peer=p, duplex=duplex, on_host=on_host) for h2d, d2h, p in links]
    disk = Disk(links[0][0], links[0][1])
    cluster = Cluster(tuple(found), 2, buses, host_bytes_per_s=memory, disk=disk, core_copy_bytes_per_s=300.0)
    contention = Contention(cluster, pinned=pinned)
    for kind in Kind:
        host = kind in (Kind.FETCH, Kind.READ, Kind.WRITE)
        flow = contention.flow_of(HOST if host else 0, kind, 1 if kind is Kind.SEND else HOST)
        assert flow is None or contention.shares([flow]) == [1.0]


# Flows of bytes, driven by hand: what starts when, over which links, and when it must end.


def finish_s(case: Case, pinned: bool = True) -> list[float]:
    """Return when the simulator's clock says that each flow of a case ends."""
    cluster, units = case.cluster, workload(job())
    costs = StatedCosts(units, cluster, pinned=pinned)

    def seconds(command: Command) -> float:
        source, target = command.device, command.peer
        if command.kind is Kind.SEND:
            alone_s = command.nbytes / cluster.send_bytes_per_s(source, target)
            return cluster.send_latency_s(source, target) + alone_s
        return costs.copy_s(command.nbytes, source, "h2d" if command.kind is Kind.LOAD else "d2h")

    backend = SimBackend(seconds, Contention(cluster, pinned=pinned), lambda c, _: case.flows[c.number].start_s)
    backend.submit(case.commands())
    ends = {event.command.number: event.end_s for event in (backend.next_event() for _ in case.flows)}
    return [ends[number] for number in range(len(case.flows))]


def loads(*nbytes: int, starts: tuple[float, ...] = ()) -> tuple[Flow, ...]:
    """Return a load on each of several devices."""
    starts = starts or (0.0,) * len(nbytes)
    return tuple(Flow(Kind.LOAD, i, HOST, s, n) for i, (n, s) in enumerate(zip(nbytes, starts, strict=True)))


def processor_sharing(starts: list[float], works: list[int], own: float, together: float) -> list[float]:
    """Return when jobs end that get `own` each, or equal parts of `together` where that is less."""
    ends, left, now = [0.0] * len(works), [float(work) for work in works], 0.0
    while any(left):
        here = [i for i, work in enumerate(left) if work and starts[i] <= now]
        coming = [start for i, start in enumerate(starts) if left[i] and start > now]
        rate = min(own, together / len(here)) if here else 0.0
        step = min([left[i] / rate for i in here] + [start - now for start in coming])
        for i in here:
            left[i] = 0.0 if left[i] <= rate * step * (1 + 1e-12) else left[i] - rate * step
            ends[i] = now + step
        now += step
    return ends


def behind(bus: Bus, count: int, link: Link, **fields: object) -> Cluster:
    link = replace(link, shared=bus.name)
    return Cluster((Device(1, h2d=link, d2h=link, **fields),) * count, buses=(bus,))


@given(
    copies=st.lists(st.tuples(st.integers(0, 8), st.integers(1, 50)), min_size=1, max_size=6),
    own=st.sampled_from([1.0, 2.0, 8.0]),
    latency_s=st.sampled_from([0.0, 0.25, 3.0]),
)
def test_copies_over_one_bus_are_a_queue_that_shares_its_processor(copies, own: float, latency_s: float):
    starts, works = [float(start) for start, _ in copies], [work for _, work in copies]
    cluster = behind(Bus("bus", 4.0), len(copies), Link(own, latency_s))
    wanted = processor_sharing([start + latency_s for start in starts], works, own, 4.0)
    assert finish_s(Case(cluster, loads(*works, starts=tuple(starts)))) == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_equal_copies_end_at_one_instant_after_one_latency(count: int):
    found = finish_s(Case(behind(Bus("bus", 2.0), count, Link(2.0, 0.5)), loads(*[6] * count)))
    assert found == pytest.approx([0.5 + 3 * count] * count, rel=1e-12)
    assert len(set(found)) == 1


@pytest.mark.parametrize(("duplex", "ends"), [("full", [8.0, 4.0]), ("half", [12.0, 8.0])])
def test_a_load_beside_a_store(duplex: str, ends: list[float]):
    # half duplex: each has half of the link's time until the store is over at 8; 4 bytes of the load are left
    both = (Flow(Kind.LOAD, 0, HOST, 0.0, 8), Flow(Kind.STORE, 0, HOST, 0.0, 4))
    assert finish_s(Case(Cluster((Device(1, h2d=Link(1.0), d2h=Link(1.0), duplex=duplex),)), both)) == ends


@pytest.mark.parametrize(("duplex", "ends"), [("full", [8.0, 8.0]), ("half", [16.0, 16.0])])
def test_a_load_beside_another_devices_store_over_one_bus(duplex: str, ends: list[float]):
    both = (Flow(Kind.LOAD, 0, HOST, 0.0, 8), Flow(Kind.STORE, 1, HOST, 0.0, 8))
    assert finish_s(Case(behind(Bus("bus", 1.0, duplex), 2, Link(4.0)), both)) == ends


def test_the_time_of_a_half_duplex_link_is_shared_whatever_each_direction_carries():
    # alone 4 s and 2 s; both at half pace until the store is over at 4, with 2 s of the load left
    both = (Flow(Kind.LOAD, 0, HOST, 0.0, 4), Flow(Kind.STORE, 0, HOST, 0.0, 8))
    cluster = Cluster((Device(1, h2d=Link(1.0), d2h=Link(4.0), duplex="half"),))
    assert finish_s(Case(cluster, both)) == [6.0, 4.0]


def test_pageable_copies_are_slower_and_take_host_memory_three_times():
    link = Link(4.0, pageable_bytes_per_s=2.0)
    cluster = Cluster((Device(1, h2d=link, d2h=link),) * 2, host_bytes_per_s=6.0)
    assert finish_s(Case(cluster, loads(8))) == [2.0]
    assert finish_s(Case(cluster, loads(8)), pinned=False) == [4.0]
    assert finish_s(Case(cluster, loads(6, 6))) == [2.0, 2.0]  # 4 and 4 bytes a second of 6
    assert finish_s(Case(cluster, loads(6, 6)), pinned=False) == [6.0, 6.0]  # 3 x 2 and 3 x 2 of 6


def test_devices_behind_different_buses_still_share_host_memory():
    # a and b share bus x, c has bus y to itself; of 6 bytes a second of memory the bus leaves c 4
    buses = (Bus("x", 2.0), Bus("y", 8.0))
    a, c = (Device(1, h2d=Link(8.0, shared=name)) for name in "xy")
    cluster = Cluster((a, a, c), buses=buses, host_bytes_per_s=6.0)
    assert finish_s(Case(cluster, loads(4, 4, 16))) == pytest.approx([4.0, 4.0, 4.0], rel=1e-12)


def test_peers_send_beside_loads_and_through_host_memory_over_both_links():
    # a send and a load, 8 bytes each at a byte a second
    beside = (Flow(Kind.SEND, 0, 1, 0.0, 8), Flow(Kind.LOAD, 1, HOST, 0.0, 8))
    through_host = Cluster((Device(1, h2d=Link(1.0, 0.5), d2h=Link(1.0, 0.25)),) * 2)
    device = replace(through_host.devices[0], peer=Link(1.0))
    assert finish_s(Case(Cluster((device,) * 2), beside)) == [8.0, 8.5]
    # the load has gone on alone from 0.5 to 0.75, when the send joins; it has 7.75 bytes left and the send 8
    assert finish_s(Case(through_host, beside)) == [16.5, 16.25]


def test_two_senders_to_one_device_share_its_end():
    both = tuple(Flow(Kind.SEND, source, 2, 0.0, 8) for source in (0, 1))
    assert finish_s(Case(Cluster((Device(1, peer=Link(1.0)),) * 3), both)) == [16.0, 16.0]


def test_the_disk_and_copies_share_host_memory():
    # 4 bytes a second of 4: the disk would take 3, the load 4; each gets 2
    cluster = Cluster((Device(1, h2d=Link(8.0)),), host_bytes_per_s=4.0, disk=Disk(read=Link(3.0)))
    unit = ShardUnit("A", Phase.FORWARD, 0, 0)
    read, load = (
        Command(0, Kind.READ, HOST, Lane.DISK, unit, nbytes=6),
        Command(1, Kind.LOAD, 0, Lane.H2D, unit, nbytes=6),
    )
    backend = SimBackend(lambda c: 2.0 if c is read else 1.5, Contention(cluster))
    backend.submit([read, load])
    assert [backend.next_event().end_s for _ in range(2)] == [3.0, 3.0]


def test_updates_on_the_host_share_its_memory():
    cluster = Cluster((Device(1),) * 2, host_bytes_per_s=4.0)
    contention = Contention(cluster)
    flows = [contention.flow_of(device, Kind.UPDATE) for device in (0, 1)]
    assert [flow.uses for flow in flows] == [((MEMORY, 1.0),)] * 2
    assert contention.shares(flows) == [0.5, 0.5]


def test_an_update_takes_of_memory_what_a_core_copies():
    for core, memory in ((1.0, 1 / 4), (8.0, 1.0)):
        cluster = Cluster((Device(1),), host_bytes_per_s=4.0, core_copy_bytes_per_s=core)
        flow = Contention(cluster).flow_of(0, Kind.UPDATE)
        assert flow is not None
        assert dict(flow.uses)[MEMORY] == memory


def test_flows_end_when_simgrid_says():
    answers = json.loads(simgrid_flows.ANSWERS.read_text())
    cases = simgrid_flows.cases()
    assert len(answers["finish_s"]) == len(cases) >= 200
    num_slowed = 0
    for case, wanted in zip(cases, answers["finish_s"], strict=True):
        assert finish_s(case) == pytest.approx(wanted, rel=1e-8)
        free = replace(case.cluster, buses=tuple(replace(bus, bytes_per_s=math.inf) for bus in case.cluster.buses))
        num_slowed += finish_s(replace(case, cluster=free)) != pytest.approx(wanted, rel=1e-8)
    assert num_slowed > len(cases) / 2  # or the cases would show nothing


@pytest.mark.skipif(importlib.util.find_spec("simgrid") is None, reason="SimGrid is not installed")
def test_simgrid_still_says_so():
    program = "import json; from tests.hydrasim.simgrid_flows import *; print(json.dumps(simgrid_finish_s(cases())))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    wanted = json.loads(simgrid_flows.ANSWERS.read_text())["finish_s"]
    for found, ends in zip(json.loads(done.stdout.splitlines()[-1]), wanted, strict=True):
        assert found == pytest.approx(ends, rel=1e-8)


# Whole simulations.


def behind_one_bus(count: int, blocks: int = 4) -> Cluster:
    link = replace(BYTE_A_SECOND, shared="pcie0")
    return Cluster((Device(blocks * BLOCK, h2d=link, d2h=link),) * count, buses=(Bus("pcie0", 1.0),))


def emulated(num_devices: int, num_cores: int) -> Cluster:
    return replace(Cluster.of(num_devices, Device(1 << 20, on_host=True)), host_cores=num_cores)


def each_on_its_own(jobs: Workload) -> Script:
    return Script({f"{j.name}/L0#{n}": index for index, j in enumerate(jobs.jobs) for n in range(j.num_minibatches)})


@pytest.mark.parametrize("count", [1, 2, 4])
def test_equal_copies_that_start_together_share_a_bus_equally(count: int):
    jobs = workload(*(heavy(f"j{index}", compute_s=1.0) for index in range(count)))
    timeline = simulate(jobs, behind_one_bus(count), each_on_its_own(jobs))
    assert times(timeline, "load") == [(0.0, 64.0 * count)] * count


def test_a_copy_goes_on_alone_once_the_other_is_over():
    # gpu0 h2d  A A A    A has two blocks and B one; both at half speed until B is over at 128,
    # gpu1 h2d  B B .    when A has one block left and the bus to itself
    jobs = workload(heavy("A", blocks=2, compute_s=1.0), heavy("B", compute_s=1.0))
    timeline = simulate(jobs, behind_one_bus(2), each_on_its_own(jobs))
    assert times(timeline, "load", "A/L0#0") == [(0.0, 192.0)]
    assert times(timeline, "load", "B/L0#0") == [(0.0, 128.0)]


def test_without_the_effect_nobody_shares():
    jobs = workload(heavy("A"), heavy("B"))
    timeline = simulate(jobs, behind_one_bus(2), each_on_its_own(jobs), effects="transfers")
    assert times(timeline, "load") == [(0.0, 64.0)] * 2


@pytest.mark.parametrize(("num_devices", "num_cores", "slowdown"), [(2, 2, 1.0), (2, 1, 2.0), (4, 1, 4.0), (3, 2, 1.5)])
def test_emulated_devices_share_the_cores(num_devices: int, num_cores: int, slowdown: float):
    jobs = workload(*(job(f"j{index}") for index in range(num_devices)))  # a unit of 2 s each
    timeline = simulate(jobs, emulated(num_devices, num_cores), each_on_its_own(jobs))
    assert [end for _, end in times(timeline, "compute")] == pytest.approx([2 * slowdown] * num_devices, abs=1e-12)


@pytest.mark.parametrize(
    ("compute_s", "blocks"), [((4.0, 4.0, 4.0), (1, 1, 1)), ((64.0, 8.0, 256.0, 16.0), (1, 3, 2, 4))]
)
def test_with_one_loading_zone_a_device_waits_for_the_slower_of_unit_and_next_load(compute_s, blocks):
    # l1 + max(c1, l2) + max(c2, l3) + ... + cn; stores are free
    jobs = [heavy(f"j{i}", compute_s=c, blocks=b) for i, (c, b) in enumerate(zip(compute_s, blocks, strict=True))]
    timeline = simulate(workload(*jobs), Cluster((Device(1 << 20, h2d=BYTE_A_SECOND),)), "fifo")
    load_s = [BLOCK * count for count in blocks]
    overlapped = sum(map(max, compute_s, load_s[1:]))
    assert timeline.makespan_s == load_s[0] + overlapped + compute_s[-1]


def test_one_device_takes_the_sum_of_all_work():
    jobs = workload(*(job(name, shards=s, minibatches=m) for name, s, m in (("A", 2, 3), ("B", 1, 5), ("C", 4, 1))))
    work_s = sum(one.num_minibatches * 2 * len(one.shards) for one in jobs.jobs)
    assert simulate(jobs, Cluster((Device(1 << 20),)), "random").makespan_s == work_s


# Who shares what.


def test_loads_do_not_slow_stores_nor_other_buses():
    a, b = (Device(64, h2d=Link(1.0, shared=name), d2h=Link(1.0, shared=name)) for name in "ab")
    contention = Contention(Cluster((a, a, b), buses=(Bus("a", 1.0), Bus("b", 1.0))))
    first, second, other = (contention.flow_of(device, Kind.LOAD) for device in range(3))
    store = contention.flow_of(0, Kind.STORE)
    assert contention.shares([first, second]) == [0.5, 0.5]
    assert contention.shares([first, store, other]) == [1.0, 1.0, 1.0]


def test_copies_at_memory_speed_take_a_core_and_throttled_ones_what_their_speed_takes():
    at_memory_speed = Device(64, on_host=True)
    throttled = replace(at_memory_speed, h2d=Link(1.0), d2h=Link(1.0))
    cluster = Cluster((at_memory_speed, throttled), host_cores=2)
    for speed, core in ((math.inf, 0.0), (4.0, 0.25), (0.5, 1.0)):
        contention = Contention(replace(cluster, core_copy_bytes_per_s=speed))
        assert dict(contention.flow_of(0, Kind.LOAD).uses)[CORES] == 0.5
        assert dict(contention.flow_of(1, Kind.LOAD).uses).get(CORES, 0.0) == core / 2
        assert (
            dict(contention.flow_of(1, Kind.COMPUTE).uses)
            == dict(contention.flow_of(-1, Kind.FETCH).uses)
            == {CORES: 0.5}
        )


def test_sends_of_emulated_devices_take_cores_at_both_ends():
    fast, slow = Device(1, on_host=True), Device(1, on_host=True, h2d=Link(1.0), d2h=Link(1.0), peer=Link(2.0))

    def cores(*devices: Device) -> float:
        cluster = Cluster(devices, host_cores=4, core_copy_bytes_per_s=8.0)
        flows = [Contention(cluster).flow_of(0, kind, 1) for kind in (Kind.SEND, Kind.GATHER)]
        found = {dict(flow.uses).get(CORES, 0.0) if flow else 0.0 for flow in flows}
        return 4 * found.pop()

    assert cores(fast, fast) == 2.0
    assert cores(fast, slow) == 1 + 1 / 8  # through the host
    assert cores(slow, slow) == 2 * 2 / 8
    assert cores(Device(1), fast) == 1.0
    assert cores(Device(1), Device(1)) == 0.0


def test_a_throttled_copy_slows_the_unit_beside_it():
    # one core; B's load of 96 s takes a quarter of it, less than its half, so A's unit goes at 3/4
    jobs = workload(heavy("A", compute_s=96.0, blocks=0), heavy("B", compute_s=1.0, blocks=2))
    link = Link(1.0)
    device = Device(1 << 20, h2d=link, on_host=True)
    cluster = Cluster((device, device), host_cores=1, core_copy_bytes_per_s=4.0)
    timeline = simulate(jobs, cluster, each_on_its_own(jobs))
    assert times(timeline, "compute", "A/L0#0") == [(0.0, 128.0)]
    assert times(timeline, "load") == [(0.0, 128.0)]


def test_links_as_fast_as_memory_share_nothing():
    contention = Contention(Cluster((Device(64, h2d=Link(shared="a")),) * 2, buses=(Bus("a", math.inf),)))
    assert contention.flow_of(0, Kind.LOAD) is None


def test_a_real_device_computes_and_loads_beside_the_host():
    contention = Contention(Cluster((Device(64),), host_cores=1))
    assert contention.flow_of(0, Kind.LOAD) is contention.flow_of(0, Kind.STORE) is None
    assert contention.shares([contention.flow_of(0, Kind.COMPUTE), contention.flow_of(-1, Kind.FETCH)]) == [1.0, 1.0]


# Units beside other devices' units.


class Slowed(StatedCosts):
    """Stated costs, but A's units take twice as long, and B's as long as ever, while all others compute."""

    def slowdown(self, job: str, num_computing: int) -> float:
        return 1 + ({"A": 2.0, "B": 1.0, "C": 3.0}[job] - 1) * (num_computing - 1) / (len(self._devices) - 1)


def test_units_take_longer_while_other_devices_compute():
    # gpu0  A A A .     alone A takes 2: beside B, for 2 s, it does half of it
    # gpu1  B B . .
    jobs = workload(job("A"), job("B"))
    cluster = Cluster.of(2, Device(64))
    timeline = simulate(jobs, cluster, each_on_its_own(jobs), costs=Slowed(jobs, cluster))
    assert times(timeline, "compute", "A/L0#0") == [(0.0, 3.0)]
    assert times(timeline, "compute", "B/L0#0") == [(0.0, 2.0)]


def test_with_half_of_the_others_computing_the_slowdown_is_half():
    # one of C's two possible neighbours computes: 1 + (3 - 1) / 2 = 2 times as long, until B is over at 2
    jobs = workload(job("C"), job("B"))
    cluster = Cluster.of(3, Device(64))
    timeline = simulate(jobs, cluster, each_on_its_own(jobs), costs=Slowed(jobs, cluster))
    assert times(timeline, "compute", "C/L0#0") == [(0.0, 3.0)]


@pytest.mark.parametrize("slowdown", [(1.0, 2.0, 4.0), (1.0, 2.0)])
def test_the_slowdown_follows_the_number_that_compute(slowdown: tuple[float, ...]):
    # works of 1, 2 and 4 s: all three at 1/f3 until the first is over, then two at 1/f2, then one alone
    jobs = workload(*(job(name, seconds=work / 2) for name, work in (("A", 1.0), ("B", 2.0), ("C", 4.0))))
    cluster = replace(Cluster.of(3, Device(64)), compute_slowdown=slowdown)
    first = 1 * slowdown[-1]
    second = first + 1 * slowdown[1]
    timeline = simulate(jobs, cluster, each_on_its_own(jobs))
    assert [end for _, end in times(timeline, "compute")] == [first, second, second + 2]


def test_emulated_and_real_devices_slow_each_other():
    jobs = workload(job("A"), job("B"))
    cluster = Cluster((Device(64, on_host=True), Device(64)), host_cores=2, compute_slowdown=(1.0, 2.0))
    assert times(simulate(jobs, cluster, each_on_its_own(jobs)), "compute") == [(0.0, 4.0)] * 2


# The inverse.

LINK = Link(1.0, latency_s=0.5, shared="bus")
THROTTLED = Device(12 * BLOCK, h2d=LINK, d2h=LINK, on_host=True)
REAL = replace(THROTTLED, on_host=False)
WORLDS = {
    "cores and a bus": Cluster((THROTTLED,) * 3, 2, (Bus("bus", 1.0),)),
    "copies that take cores": Cluster((THROTTLED,) * 3, 2, (Bus("bus", 2.0),), core_copy_bytes_per_s=2.0),
    "a half-duplex bus": Cluster((REAL,) * 3, buses=(Bus("bus", 1.0, "half"),)),
    "half-duplex links": Cluster((replace(REAL, duplex="half"),) * 3, buses=(Bus("bus", 2.0),)),
    "host memory": Cluster((REAL,) * 3, buses=(Bus("bus", 2.0),), host_bytes_per_s=1.5),
}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("policy", ["sharded-lrtf", "random", "task-parallel"])
def test_what_a_run_shows_gives_back_what_it_was_charged(world: str, policy: str):
    seconds, cluster = {"A": 64.0, "B": 96.0, "C": 40.0}, WORLDS[world]
    jobs = workload(*(heavy(name, minibatches=3, compute_s=s, blocks=2, shards=3) for name, s in seconds.items()))
    costs = StatedCosts(jobs, cluster)
    timeline = simulate(jobs, cluster, policy)
    alone_s = uncontended_s(timeline, cluster)
    assert timeline.makespan_s > simulate(jobs, cluster, policy, effects="transfers").makespan_s
    for span in timeline.spans:
        if span.kind == "compute":
            wanted = costs.compute_s(ShardUnit.parse(span.unit), span.device)
        elif span.kind in ("load", "store"):
            wanted = costs.copy_s(span.nbytes, span.device, "h2d" if span.kind == "load" else "d2h")
        else:
            wanted = 0.0
        assert alone_s[span.number] == pytest.approx(wanted, abs=1e-9)


def test_a_timeline_of_nothing_shared_is_left_as_it_is():
    jobs = workload(heavy("A"), heavy("B"))
    cluster = Cluster.of(2, Device(4 * BLOCK, h2d=BYTE_A_SECOND))
    timeline: Timeline = simulate(jobs, cluster, "fifo")
    ready_s = timeline.ready_s()
    assert uncontended_s(timeline, cluster) == {s.number: s.end_s - ready_s[s.number] for s in timeline.spans}


def test_a_collective_is_a_ring_of_sends():
    # device 1's only way in and out is a bus that carries one thing at a time: what it sends, then what it gets
    device = Device(1 << 10)
    cluster = Cluster(
        (replace(device, peer=Link(64.0)), replace(device, peer=Link(64.0, shared="b"))),
        buses=(Bus("b", 64.0, "half"),),
    )
    jobs = workload(TrainingJob("A", (Shard(0.0, 0.0, parameter_bytes=64),), 1))
    assert simulate_system(jobs, cluster, "ddp").makespan_s == 2.0
    assert simulate_system(jobs, cluster, "ddp", effects="transfers").makespan_s == 1.0
