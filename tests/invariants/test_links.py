"""In every world: no link, bus, memory or core ever carries more than it can, and nothing is faster than alone."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from hypothesis import given

from hydrasim import Plan, Timeline, simulate
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.profile import StatedCosts
from hydrasim.timeline import Span
from hydrasim.workload import ShardUnit
from tests.invariants.strategies import World, worlds
from tests.invariants.symbolic import spans_by_lane

Work = tuple[float, float, float]  # begin, end, and what is carried between them


def run(world: World, **changes: object) -> Timeline:
    arguments = {"policy": world.policy, "mechanism": world.mechanism, "seed": world.seed}
    return simulate(world.workload, world.cluster, **(arguments | changes))


def alone_s(world: World, span: Span, costs: StatedCosts) -> float:
    unit = ShardUnit.parse(span.unit)
    if span.kind == "compute":
        return costs.compute_s(unit, span.device)
    if span.kind == "fetch":
        return costs.fetch_s(unit.job)
    if span.kind == "update":
        return costs.update_s(unit.job, unit.shard)
    if span.kind in ("read", "write"):
        return world.cluster.disk_s(span.nbytes, span.kind)
    return costs.copy_s(span.nbytes, span.device, "h2d" if span.kind == "load" else "d2h")


def carried(world: World, span: Span, seconds: float) -> Iterator[tuple[str, float, float]]:
    """Name what a span uses, how much of it in all, and how much there is a second."""
    cluster, pinned = world.cluster, world.mechanism.pinned
    if span.kind in ("read", "write"):
        yield "memory", span.nbytes, cluster.host_bytes_per_s
        yield "disk", seconds, 1.0
        return
    on_host = span.kind in ("fetch", "update") or cluster.devices[span.device].on_host
    if span.kind in ("compute", "fetch", "update"):
        if on_host and cluster.host_cores is not None:
            yield "cores", seconds, cluster.host_cores
        return
    device = cluster.devices[span.device]
    link = device.h2d if span.kind == "load" else device.d2h
    rate = link.bytes_per_s if pinned else link.pageable_bytes_per_s or link.bytes_per_s
    yield f"link {span.device} {'' if device.duplex == 'half' else span.kind}", span.nbytes / rate, 1.0
    yield "memory", span.nbytes * (2 if on_host else 1 if pinned else 3), cluster.host_bytes_per_s
    for bus in cluster.buses:
        if bus.name == link.shared:
            yield f"bus {bus.name} {'' if bus.duplex == 'half' else span.kind}", span.nbytes, bus.bytes_per_s


@given(worlds())
def test_nothing_carries_more_than_it_can_in_any_stretch_of_time(world: World):
    costs = StatedCosts(world.workload, world.cluster, pinned=world.mechanism.pinned)
    timeline = run(world, effects="overheads")
    works, capacity = defaultdict[str, list[Work]](list), dict[str, float]()
    for span in timeline.spans:
        latency_s = 0.0
        if span.kind in ("load", "store"):
            device = world.cluster.devices[span.device]
            latency_s = (device.h2d if span.kind == "load" else device.d2h).latency_s
        for name, amount, per_s in carried(world, span, alone_s(world, span, costs)):
            if math.isfinite(per_s):
                works[name].append((span.start_s + latency_s, span.end_s, amount))
                capacity[name] = per_s
    for name, found in works.items():
        found.sort(key=lambda work: work[1])
        for begin in {work[0] for work in found}:
            total = 0.0
            for work in (work for work in found if work[0] >= begin):
                total += work[2]  # of all that begin after `begin` and end before this one
                assert total <= capacity[name] * (work[1] - begin) * (1 + 1e-9) + 1e-9, name


@given(worlds())
def test_no_command_is_faster_than_alone(world: World):
    costs = StatedCosts(world.workload, world.cluster, pinned=world.mechanism.pinned)
    for span in run(world, effects="contention").spans:
        assert span.duration_s >= alone_s(world, span, costs) * (1 - 1e-9) - 1e-9


@given(worlds())
def test_a_plan_takes_no_longer_where_nothing_is_shared(world: World):
    devices = tuple(replace(device, duplex="full") for device in world.cluster.devices)
    buses = tuple(replace(bus, bytes_per_s=math.inf) for bus in world.cluster.buses)
    ample = replace(world.cluster, devices=devices, buses=buses, host_cores=None, host_bytes_per_s=math.inf)
    world = replace(world, cluster=replace(ample, compute_slowdown=()))
    plan = Plan.of(run(world, effects="transfers"), world.workload, world.cluster)
    alone, beside = (
        spans_by_lane(run(world, policy=FollowPlan(plan), effects=rung)) for rung in ("transfers", "overheads")
    )
    assert alone.keys() == beside.keys()
    for lane, spans in alone.items():
        assert [(s.unit, s.start_s, s.end_s) for s in spans] == [(s.unit, s.start_s, s.end_s) for s in beside[lane]]


@given(worlds())
def test_a_plan_takes_longer_the_more_is_shared(world: World):
    plan = Plan.of(run(world, effects="transfers"), world.workload, world.cluster)
    alone, shared = (run(world, policy=FollowPlan(plan), effects=rung) for rung in ("transfers", "contention"))
    assert shared.makespan_s >= alone.makespan_s - 1e-9


@given(worlds())
def test_without_variation_noise_changes_nothing(world: World):
    world = replace(world, cluster=replace(world.cluster, variation=0.0))
    assert run(world, effects="noise").spans == run(world, effects="overheads").spans


@given(worlds())
def test_no_job_begins_before_it_arrives(world: World):
    arrival_s = {job.name: job.arrival_s for job in world.workload.jobs}
    for effects in ("theory", "noise"):
        assert all(span.start_s >= span.issued_s >= arrival_s[span.job] for span in run(world, effects=effects).spans)
