"""What holds for every rival system of the registry, in every world that it fits, with any of its options."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrasim import Cluster, Link, Timeline, TrainingJob, Workload
from hydrasim.command import HOST, Command, Event, Kind
from hydrasim.errors import SystemRefused
from hydrasim.mechanism import EFFECTS
from hydrasim.systems import System, simulate_system
from hydrasim.timeline import Span
from hydrasim.workload import Phase
from tests.invariants.symbolic import happens_before, spans_by_lane
from tests.invariants.system_strategies import (
    SystemWorld,
    accepted,
    host_bytes,
    needs,
    one_byte_less,
    system_worlds,
    with_memory,
)

CERTAIN = EFFECTS[:-1]  # under noise a command may take less than it should, and so may a run
REFUSAL = r"needs ([\d,]+) bytes of device (\d) for '(.+)'; it has ([\d,]+)\."

Way = tuple[str, Link, str, int]  # of bytes: its name, the link, which way on a bus, how often memory carries a byte
Work = tuple[float, float, float]  # begin, end, and what is carried between them


def run(world: SystemWorld, **changes: object) -> tuple[Timeline, list[Command]]:
    commands: list[Command] = []
    arguments = {"system": world.system, "effects": world.effects, "seed": world.seed, "commands": commands}
    return simulate_system(world.workload, world.cluster, **(arguments | changes)), commands


def by_minibatch(commands: list[Command]) -> dict[str, list[list[Command]]]:
    """Return each job's commands, mini-batch by mini-batch; a fetch is the first of each."""
    found = defaultdict[str, list[list[Command]]](list)
    for command in commands:
        if command.kind is Kind.FETCH:
            found[command.unit.job].append([])
        if found[command.unit.job]:
            found[command.unit.job][-1].append(command)
    return found


@given(system_worlds())
def test_lanes_take_commands_one_at_a_time_in_order_and_after_what_they_follow(world: SystemWorld):
    timeline, commands = run(world)
    span_of = {span.number: span for span in timeline.spans}
    assert [command.number for command in commands] == list(range(len(commands)))
    assert sorted(span_of) == list(range(len(commands)))
    for command in commands:
        span = span_of[command.number]
        assert 0 <= span.issued_s <= span.start_s <= span.end_s
        assert all(number < command.number for number in command.after)
        assert all(span_of[number].end_s <= span.start_s for number in command.after)
    for spans in spans_by_lane(timeline).values():
        assert all(first.end_s <= second.start_s for first, second in zip(spans, spans[1:], strict=False))


@given(system_worlds())
def test_every_pass_follows_those_whose_results_it_takes_and_what_brings_them(world: SystemWorld):
    _, commands = run(world)
    before = happens_before(commands)
    for fetch, *others in itertools.chain(*by_minibatch(commands).values()):
        passes = defaultdict[tuple[Phase, int, int], list[Command]](list)
        for command in others:
            if command.kind is Kind.COMPUTE:
                passes[command.unit[1:]].append(command)
        shards = sorted({shard for _, shard, _ in passes})  # the first of each stage
        before_and_after = zip([-1, *shards[:-1]], [*shards[1:], -1], strict=True)
        neighbours = dict(zip(shards, before_and_after, strict=True))
        for (phase, shard, part), found in passes.items():
            sources = [(Phase.FORWARD, shard, part)] if phase is Phase.BACKWARD else []
            neighbour = neighbours[shard][phase is Phase.BACKWARD]
            if neighbour >= 0:
                sources.append((phase, neighbour, part))
            for command in found:
                earlier = [other for other in others if before[command.number] >> other.number & 1]
                assert before[command.number] >> fetch.number & 1
                assert all(any(arrives(made, command, earlier, before) for made in passes[key]) for key in sources)


def arrives(made: Command, command: Command, earlier: list[Command], before: dict[int, int]) -> bool:
    """Tell whether a command finds what another one made: on its own device, or sent there since."""
    return made in earlier and (
        made.device == command.device
        or any(
            (c.kind, c.device, c.peer) == (Kind.SEND, made.device, command.device)
            and before[c.number] >> made.number & 1
            for c in earlier
        )
    )


@given(system_worlds(["theory"]))
def test_every_minibatch_is_wholly_done(world: SystemWorld):
    timeline, commands = run(world)
    span_of = {span.number: span for span in timeline.spans}
    found = by_minibatch(commands)
    for job in world.workload.jobs:
        minibatches = found[job.name]
        assert [fetch.unit.minibatch for fetch, *_ in minibatches] == list(range(job.num_minibatches))
        again_s = sum(shard.forward_s for shard in job.shards)
        work_s = again_s + sum(shard.backward_s for shard in job.shards)
        least, most = recomputed_fractions(world.system, job, world.cluster)
        for minibatch in minibatches:
            done_s = sum(
                (span_of[c.number].duration_s - getattr(world.system, "microbatch_overhead_s", 0.0))
                * world.cluster.devices[c.device].speed
                for c in minibatch
                if c.kind is Kind.COMPUTE
            )
            assert work_s + least * again_s - 1e-9 <= done_s <= work_s + most * again_s + 1e-9


def recomputed_fractions(system: System, job: TrainingJob, cluster: Cluster) -> tuple[float, float]:
    """Return which part of the forwards a system runs again, at least and at most: none or all, if it does not say."""
    recompute = getattr(system, "recompute", None)
    if recompute is None:
        return 0.0, 1.0
    if recompute == "except_last":  # micro-batch
        fraction = 1 - 1 / (getattr(system, "microbatches", None) or min(len(cluster.devices), len(job.shards)))
    else:
        fraction = float(recompute in (True, "always"))
    return fraction, fraction


@given(system_worlds())
def test_no_minibatch_begins_to_compute_before_the_one_before_has_changed_the_weights(world: SystemWorld):
    timeline, commands = run(world)
    span_of = {span.number: span for span in timeline.spans}
    for minibatches in by_minibatch(commands).values():
        changed_s = 0.0
        for minibatch in minibatches:
            spans = [span_of[c.number] for c in minibatch if c.kind in (Kind.COMPUTE, Kind.GATHER, Kind.UPDATE)]
            assert min(span.start_s for span in spans if span.kind == "compute") >= changed_s
            changed_s = max(span.end_s for span in spans)


@given(system_worlds())
def test_jobs_begin_when_they_have_arrived_and_take_turns_on_a_device(world: SystemWorld):
    timeline, _ = run(world)
    arrival_s = {job.name: job.arrival_s for job in world.workload.jobs}
    assert all(span.issued_s >= arrival_s[span.job] for span in timeline.spans)
    for device, spans in timeline.by_device.items():
        end_s = dict.fromkeys(arrival_s, 0.0)
        for span in sorted(spans if device != HOST else [], key=lambda span: (span.start_s, span.end_s)):
            assert all(span.start_s >= end_s[job] for job in end_s if job != span.job)
            end_s[span.job] = max(end_s[span.job], span.end_s)


@given(system_worlds())
def test_the_same_world_gives_the_same_bytes(world: SystemWorld):
    assert run(world)[0].to_lines() == run(world)[0].to_lines()


@given(system_worlds(EFFECTS[1:], arranging=False), st.data())
def test_a_system_fits_what_it_states_to_need_and_not_one_byte_less(world: SystemWorld, data: st.DataObject):
    stated = needs(world.system, world.workload, world.cluster)
    memory = [device.memory_bytes for device in world.cluster.devices]
    assert [max(1, need) for need in stated] == memory
    assert run(world)[0].header["peak_bytes"] == stated
    device = data.draw(st.integers(0, len(memory) - 1))
    tighter = replace(world, cluster=replace(one_byte_less(world.cluster, device), host_memory_bytes=None))
    needed = zip(needs(world.system, world.workload, tighter.cluster), tighter.cluster.devices, strict=True)
    fits = all(need <= device.memory_bytes for need, device in needed)  # arranged otherwise, as stages can be
    assert accepted(world.system, world.workload, tighter.cluster) == fits
    check_refused_or_run(tighter)


@given(system_worlds(EFFECTS[1:]), st.integers(1, 300))
def test_a_system_is_refused_before_anything_runs_with_what_it_lacks(world: SystemWorld, memory_bytes: int):
    cluster = with_memory(world.cluster, [memory_bytes] * len(world.cluster.devices))
    check_refused_or_run(replace(world, cluster=replace(cluster, host_memory_bytes=None)))


def check_refused_or_run(world: SystemWorld) -> None:
    if accepted(world.system, world.workload, world.cluster):
        run(world)
        return
    happened = list[Command | Event]()
    with pytest.raises(SystemRefused, match=REFUSAL) as refused:
        run(world, commands=happened, on_event=happened.append)
    assert not happened
    need, device, job, memory = (text.replace(",", "") for text in re.findall(REFUSAL, str(refused.value))[0])
    assert int(need) > int(memory) == world.cluster.devices[int(device)].memory_bytes
    assert job in world.workload.by_name


@given(system_worlds(EFFECTS[1:], arranging=False))
def test_a_system_fits_the_host_memory_that_it_states_to_need_and_not_one_byte_less(world: SystemWorld):
    need = host_bytes(world.system, world.workload, world.cluster)
    run(replace(world, cluster=replace(world.cluster, host_memory_bytes=max(1, need))))
    if need > 1:
        with pytest.raises(SystemRefused, match=f"needs {need:,} bytes of host memory for .+; there are {need - 1:,}"):
            run(replace(world, cluster=replace(world.cluster, host_memory_bytes=need - 1)))


@given(system_worlds(["contention", "overheads"]))
def test_nothing_carries_more_than_it_can_in_any_stretch_of_time(world: SystemWorld):
    works = defaultdict[str, list[Work]](list)
    for span in run(world)[0].spans:
        for name, seconds in carried(world.cluster, span):
            works[name].append((span.start_s, span.end_s, seconds))
    for name, found in works.items():
        found.sort(key=lambda work: work[1])
        for begin_s in {work[0] for work in found}:
            total_s = 0.0
            for start_s, end_s, seconds in found:
                if start_s >= begin_s:  # of all that begin after this and end before that
                    total_s += seconds
                    assert total_s <= (end_s - begin_s) * (1 + 1e-9) + 1e-9, name


def carried(cluster: Cluster, span: Span) -> Iterator[tuple[str, float]]:
    """Name what a span uses, and for how many seconds it would take all of it."""
    if span.kind == "update":
        yield "memory", span.nbytes / cluster.host_bytes_per_s
    buses = {bus.name: bus for bus in cluster.buses}
    for name, link, way, traffic in links(cluster, span):
        yield name, span.nbytes / link.bytes_per_s
        yield "memory", span.nbytes * traffic / cluster.host_bytes_per_s
        if link.shared:
            bus = buses[link.shared]
            yield f"bus {bus.name}{'' if bus.duplex == 'half' else way}", span.nbytes / bus.bytes_per_s


def links(cluster: Cluster, span: Span) -> Iterator[Way]:
    """Yield the links that a span's bytes run over; what goes around a ring is passed on as it is sent."""
    devices = cluster.devices
    passed = span.kind in ("send", "gather")
    source, target = span.device, span.peer if passed else span.device
    if passed and devices[source].peer is not None and devices[target].peer is not None:
        yield f"peer from {source}", devices[source].peer, "in", 0
        yield f"peer to {target}", devices[target].peer, "out", 0
        return
    if passed or span.kind == "store":
        way = "" if devices[source].duplex == "half" else " in"
        yield f"link {source}{way}", devices[source].d2h, "in", 1 + devices[source].on_host
    if passed or span.kind == "load":
        way = "" if devices[target].duplex == "half" else " out"
        yield f"link {target}{way}", devices[target].h2d, "out", 1 + devices[target].on_host


@given(system_worlds(["theory"], arranging=False))
def test_a_run_takes_no_less_with_more_effects(world: SystemWorld):
    if (
        len(world.system.groups(world.workload, world.cluster)) > 1
    ):  # which group is free first may change for the better
        world = replace(world, workload=Workload(world.workload.jobs[:1]))
    taken_s = [run(world, effects=rung)[0].makespan_s for rung in CERTAIN]
    assert all(less <= more + 1e-9 for less, more in zip(taken_s, taken_s[1:], strict=False))


@given(system_worlds(CERTAIN))
def test_no_run_is_shorter_than_its_work(world: SystemWorld):
    timeline, _ = run(world)
    speed = sum(device.speed for device in world.cluster.devices)
    work_s = {job.name: job_s(job) / speed for job in world.workload.jobs}
    assert timeline.makespan_s >= sum(work_s.values()) - 1e-9
    for job in world.workload.jobs:
        end_s = max(span.end_s for span in timeline.spans if span.job == job.name)
        assert end_s >= job.arrival_s + work_s[job.name] - 1e-9
    for device in range(len(world.cluster.devices)):
        busy_s = sum(span.duration_s for span in timeline.by_device[device] if span.kind == "compute")
        assert timeline.makespan_s >= busy_s - 1e-9


def job_s(job: TrainingJob) -> float:
    return job.num_minibatches * sum(shard.forward_s + shard.backward_s for shard in job.shards)
