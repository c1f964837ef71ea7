"""A lost device costs the units that were not durable; jobs whose state lay there alone begin again."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hydrasim import OURS, Cluster, Device, Link, Shard, ShardUnit, TrainingJob, Workload, simulate
from hydrasim.command import Command, DeviceBack, DeviceLost, Kind, Lane
from hydrasim.errors import HydraError, StallError, WorkloadError
from hydrasim.planning import make_plan
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.recovery import Journal

THROUGH = replace(OURS, recoverable=True, write_back="through")
SHARD = Shard(1.0, 2.0, parameter_bytes=64, optimizer_bytes=128, output_bytes=64)
TWO = Workload(tuple(TrainingJob(name, (SHARD,) * 3, 4, input_bytes=64, fetch_s=0.1) for name in "AB"))


def cluster(num_devices: int = 2, **fields: object) -> Cluster:
    return Cluster((Device(1280, h2d=Link(640.0), d2h=Link(640.0)),) * num_devices, **fields)


def losing(*events, workload=TWO, mechanism=THROUGH, on=None, policy="sharded-lrtf"):
    commands: list[Command] = []
    on = cluster() if on is None else on
    return simulate(workload, on, policy, mechanism=mechanism, happenings=events, commands=commands), commands


def computes(timeline) -> list[str]:
    return [span.unit for span in timeline.spans if span.kind == "compute"]


# The journal


def attempt(journal: Journal, text: str, device: int, *numbers: int) -> None:
    unit = ShardUnit.parse(text)
    compute = Command(numbers[0], Kind.COMPUTE, device, Lane.COMPUTE, unit)
    stores = [Command(number, Kind.STORE, device, Lane.D2H, unit) for number in numbers[1:]]
    eviction = Command(numbers[0] - 1, Kind.STORE, device, Lane.D2H, unit)
    journal.issued(unit, device, compute, [eviction, compute, *stores], [])


def test_a_unit_is_durable_when_all_before_it_are_and_its_stores_are_done():
    journal = Journal()
    attempt(journal, "A/F0#0", 0, 1, 2)
    attempt(journal, "A/F1#0", 0, 4, 5)
    for number in (4, 5, 1):  # an end that is not told in order
        journal.finished(number)
    assert journal.elsewhere("A", 1) == {2}
    assert journal.elsewhere("A", 0) == set()
    assert [str(one.unit) for [*attempts] in journal.lose(0) for one in attempts] == ["A/F1#0", "A/F0#0"]
    assert journal.lose(0) == []


def test_what_follows_on_another_device_is_undone_too_and_what_came_before_is_not():
    journal = Journal()
    attempt(journal, "A/F0#0", 1, 1, 2)
    attempt(journal, "A/F1#0", 0, 4, 5)
    attempt(journal, "A/F2#0", 1, 7, 8)
    attempt(journal, "B/F0#0", 1, 10, 11)
    [undone] = journal.lose(0)
    assert [str(one.unit) for one in undone] == ["A/F2#0", "A/F1#0"]
    assert journal.before("A", 1) == {1, 2}
    assert journal.before("A", 0) == set()
    assert journal.elsewhere("B", 0) == {10, 11}


# Whole runs


@pytest.mark.parametrize("at_s", [0.0, 0.05, 0.7, 1.3, 2.2, 3.3, 7.7, 11.0, 20.0, 30.0, 43.0])
def test_units_are_redone_elsewhere_and_nothing_else_is(at_s: float):
    whole, _ = losing()
    timeline, commands = losing(DeviceLost(0, at_s), DeviceBack(0, at_s + 3.0))
    assert set(computes(timeline)) == set(computes(whole))
    assert len(computes(timeline)) <= TWO.num_units + 2  # those whose outputs were on their way
    assert not [command for command in commands if command.kind is Kind.RESTORE]
    assert whole.makespan_s <= timeline.makespan_s <= whole.makespan_s + 3.0 + 7.0
    away = [s for s in timeline.spans if s.device == 0 and s.end_s > at_s and s.start_s < at_s + 3.0]
    assert not away


def test_a_device_that_stays_away_leaves_its_work_to_the_others():
    timeline, _ = losing(DeviceLost(0, 5.0))
    assert set(computes(timeline)) == set(computes(losing()[0]))
    assert not [span for span in timeline.spans if span.device == 0 and span.end_s > 5.0]
    with pytest.raises(StallError):
        losing(DeviceLost(0, 5.0), on=cluster(1))


def test_a_job_whose_newest_state_was_lost_begins_again_and_the_other_does_not():
    lazy = replace(THROUGH, write_back="lazy")
    timeline, commands = losing(
        DeviceLost(0, 20.0), DeviceBack(0, 21.0), mechanism=lazy, policy="task-parallel", on=cluster(restart_s=4.0)
    )
    [restore] = [command for command in commands if command.kind is Kind.RESTORE]
    assert restore.unit.job == "A"
    [span] = [span for span in timeline.spans if span.kind == "restore"]
    assert span.duration_s == 4.0
    assert computes(timeline).count("A/F0#0") == 2
    assert computes(timeline).count("B/F0#0") == 1


def test_the_stores_of_what_came_before_are_waited_for_only_when_a_job_moves():
    three = Workload((*TWO.jobs, replace(TWO.jobs[0], name="C")))
    timeline, commands = losing(policy="random", workload=three)
    spans = {span.number: span for span in timeline.spans}
    moved = 0
    for job in "ABC":
        units = [command for command in commands if command.kind is Kind.COMPUTE and command.unit.job == job]
        for before, after in zip(units, units[1:], strict=False):
            stores = [
                c for c in commands if c.kind is Kind.STORE and c.unit == before.unit and c.number > before.number
            ]
            if before.device != after.device:
                moved += 1
                assert all(spans[store.number].end_s <= spans[after.number].start_s for store in stores)
    assert moved


def test_what_cannot_be_recovered_is_refused():
    with pytest.raises(HydraError, match="device 1 is lost; that takes a recoverable mechanism"):
        losing(DeviceLost(1, 1.0), mechanism=OURS)
    plan, _ = make_plan(TWO, cluster(), "fifo", mechanism=THROUGH)
    with pytest.raises(HydraError, match="a policy instead of a plan"):
        losing(DeviceLost(1, 1.0), policy=FollowPlan(plan))
    with pytest.raises(WorkloadError, match="device 2 fails or comes back; there are 2"):
        losing(DeviceLost(2, 1.0))
    with pytest.raises(WorkloadError, match="device 1 fails or comes back at -1.0 s"):
        losing(DeviceBack(1, -1.0))
