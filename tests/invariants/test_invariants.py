"""What holds in every world, under every policy and every mechanism."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hydrasim import Plan, Timeline, simulate
from hydrasim.command import HOST, Command, Kind, normal_form
from hydrasim.mechanism import EFFECTS
from hydrasim.optimum.bounds import lower_bounds
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.profile import StatedCosts
from tests.invariants.strategies import PerturbedCosts, World, worlds
from tests.invariants.symbolic import Machine, happens_before, spans_by_lane, units_of


def run(world: World, **changes: object) -> tuple[Timeline, list[Command]]:
    commands: list[Command] = []
    arguments = {name: getattr(world, name) for name in ("policy", "mechanism", "effects", "seed")}
    arguments["commands"] = commands
    return simulate(world.workload, world.cluster, **(arguments | changes)), commands


def check_lanes_and_causality(timeline: Timeline, commands: list[Command]) -> None:
    span_of = {span.number: span for span in timeline.spans}
    assert [command.number for command in commands] == list(range(len(commands)))
    assert sorted(span_of) == list(range(len(commands)))
    for command in commands:
        span = span_of[command.number]
        assert 0 <= span.start_s <= span.end_s
        assert all(number < command.number for number in command.after)
        assert all(span_of[number].end_s <= span.start_s for number in command.after)
    for spans in spans_by_lane(timeline).values():
        assert all(first.end_s <= second.start_s for first, second in zip(spans, spans[1:], strict=False))


def check_units(world: World, timeline: Timeline) -> None:
    """Every unit runs once, in its job's order, one after the other."""
    for job in world.workload.jobs:
        spans = [span for span in timeline.spans if span.kind == "compute" and span.job == job.name]
        spans.sort(key=lambda span: (span.start_s, span.number))
        assert [span.unit for span in spans] == units_of(job)
        assert all(first.end_s <= second.start_s for first, second in zip(spans, spans[1:], strict=False))


def check_fetches(world: World, commands: list[Command]) -> None:
    """A mini-batch is fetched before its first unit and, for its randomness, after the last one's forward."""
    before = happens_before(commands)
    fetch = {(c.unit.job, c.unit.minibatch): c.number for c in commands if c.kind is Kind.FETCH}
    assert len(fetch) == sum(job.num_minibatches for job in world.workload.jobs)
    assert all(c.device == HOST for c in commands if c.kind in (Kind.FETCH, Kind.READ, Kind.WRITE))
    for command in commands:
        if command.kind is Kind.COMPUTE:
            assert before[command.number] >> fetch[command.unit.job, command.unit.minibatch] & 1


def check_data(world: World, timeline: Timeline, commands: list[Command]) -> None:
    machine = Machine(world.workload, world.cluster, commands, timeline)
    machine.run()
    machine.check_state_is_newest()
    machine.check_host_memory()


def plan_of(world: World, timeline: Timeline) -> Plan:
    return Plan.of(timeline, world.workload, world.cluster)


@given(worlds())
def test_every_unit_runs_once_in_order_on_lanes_that_keep_theirs(world: World):
    timeline, commands = run(world)
    check_lanes_and_causality(timeline, commands)
    check_units(world, timeline)
    check_fetches(world, commands)


@given(worlds())
def test_every_unit_finds_the_newest_data_and_no_memory_is_used_twice(world: World):
    check_data(world, *run(world))


@given(worlds())
def test_theory_runs_the_same_units_and_nothing_else(world: World):
    timeline, commands = run(world, effects="theory")
    check_lanes_and_causality(timeline, commands)
    check_units(world, timeline)
    assert {command.kind for command in commands} == {Kind.COMPUTE}


@given(worlds())
def test_the_same_inputs_give_the_same_bytes(world: World):
    assert run(world)[0].to_lines() == run(world)[0].to_lines()


@pytest.mark.parametrize("effects", EFFECTS[:-1])  # noise may have any command take less than it should
@given(world=worlds())
def test_no_plan_beats_a_lower_bound(effects: str, world: World):
    timeline, _ = run(world, effects=effects)
    costs = StatedCosts(world.workload, world.cluster)
    for name, bound_s in lower_bounds(world.workload, world.cluster, costs, effects).items():
        assert timeline.makespan_s >= bound_s - 1e-9, name


@given(world=worlds(), seed=st.integers(0, 1000))
def test_a_plan_fixes_the_commands_whatever_they_take(world: World, seed: int):
    plan = plan_of(world, run(world)[0])
    timeline, commands = run(world, policy=FollowPlan(plan))
    slow, slow_commands = run(world, policy=FollowPlan(plan), costs=PerturbedCosts(seed))
    assert normal_form(commands) == normal_form(slow_commands)
    for followed, issued in ((timeline, commands), (slow, slow_commands)):
        assert plan_of(world, followed).devices == plan.devices
        check_lanes_and_causality(followed, issued)
        check_units(world, followed)
        check_data(world, followed, issued)


@given(world=worlds(), seed=st.integers(0, 1000))
def test_data_is_right_when_beliefs_are_wrong(world: World, seed: int):
    check_data(world, *run(world, beliefs=PerturbedCosts(seed)))


@given(worlds())
def test_without_prefetch_a_device_holds_one_unit_at_a_time(world: World):
    world = replace(world, mechanism=replace(world.mechanism, prefetch=False))
    timeline, commands = run(world)
    ends = {span.number: span.end_s for span in timeline.spans}
    starts = {span.number: span.start_s for span in timeline.spans}
    computes = [command for command in commands if command.kind is Kind.COMPUTE]
    for device in range(len(world.cluster.devices)):
        idle_from_s = 0.0
        for compute in (command for command in computes if command.device == device):
            loads = [c for c in commands if c.kind is Kind.LOAD and (c.unit, c.device) == (compute.unit, device)]
            assert all(starts[load.number] >= idle_from_s for load in loads)
            idle_from_s = ends[compute.number]
