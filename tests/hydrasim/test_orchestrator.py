"""The brain, fed with events by hand or through the simulator: what it issues, and what it objects to."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

from hydrasim import Mechanism, Plan, Shard, ShardUnit, TrainingJob, simulate
from hydrasim.cluster import Disk
from hydrasim.command import Command, Failed, Finished, Kind
from hydrasim.errors import PlanError, PolicyError
from hydrasim.orchestrator import Orchestrator
from hydrasim.plan import Step
from hydrasim.policies import Policy, make_policy
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.profile import StatedCosts
from hydrasim.view import View
from hydrasim.workload import Workload
from tests.worlds import Script, devices, heavy, job, units, workload


def brain(jobs: Workload, policy: Policy | str = "fifo", count: int = 1, **options: object) -> Orchestrator:
    cluster = devices(count)
    return Orchestrator(jobs, cluster, make_policy(policy), StatedCosts(jobs, cluster), **options)  # type: ignore[arg-type]


def computes(commands: list[Command]) -> list[tuple[int, str]]:
    return [(command.device, str(command.unit)) for command in commands if command.kind is Kind.COMPUTE]


def finish(orchestrator: Orchestrator, commands: list[Command], unit: str) -> list[Command]:
    """Report the end of a unit among the commands, and return what follows."""
    command = next(c for c in commands if c.kind is Kind.COMPUTE and str(c.unit) == unit)
    return orchestrator.handle(Finished(command, 0.0, 1.0))


@dataclass(frozen=True)
class Idle(Policy):
    def choose(self, device: int, view: View) -> ShardUnit | None:
        return None


@dataclass(frozen=True)
class Stubborn(Policy):
    """Always choose the same unit."""

    unit: ShardUnit = ShardUnit.parse("A/L0#0")

    def choose(self, device: int, view: View) -> ShardUnit | None:
        return self.unit


@dataclass(frozen=True)
class Broken(Policy):
    def choose(self, device: int, view: View) -> ShardUnit | None:
        raise ZeroDivisionError("left no time")


def test_idle_devices_are_served_before_anybody_chooses_ahead():
    # two devices, jobs A B C: A and B start, and only then device 0 binds its next unit
    commands = brain(workload(*map(job, "ABC")), count=2).start()
    assert computes(commands) == [(0, "A/L0#0"), (1, "B/L0#0"), (0, "C/L0#0")]


def test_a_device_holds_at_most_a_running_and_a_bound_unit():
    orchestrator = brain(workload(*map(job, "ABCD")))
    commands = orchestrator.start()
    assert computes(commands) == [(0, "A/L0#0"), (0, "B/L0#0")]
    assert computes(finish(orchestrator, commands, "A/L0#0")) == [(0, "C/L0#0")]


@pytest.mark.parametrize("options", [{"effects": "theory"}, {"mechanism": Mechanism(prefetch=False)}])
def test_there_is_no_choosing_ahead_without_transfers_or_prefetch(options: dict[str, object]):
    orchestrator = brain(workload(*map(job, "AB")), **options)
    commands = orchestrator.start()
    assert computes(commands) == [(0, "A/L0#0")]
    assert computes(finish(orchestrator, commands, "A/L0#0")) == [(0, "B/L0#0")]


def test_the_successor_of_the_running_unit_is_first_in_line_and_only_on_its_device():
    orchestrator = brain(workload(job("A", shards=2), job("B")), count=2)
    view = View(orchestrator)
    assert list(map(str, view.eligible(0))) == ["A/F0#0", "B/L0#0"]
    orchestrator.start()  # A/F0 runs on device 0 with A/L1 bound behind it, B/L0 on device 1
    assert list(map(str, view.running(0))) == ["A/F0#0", "A/L1#0"]
    assert list(map(str, view.eligible(0))) == ["A/B0#0"]
    assert list(map(str, view.eligible(1))) == []


def test_a_fetch_is_the_first_command_of_every_job_and_follows_its_last_forward():
    orchestrator = brain(workload(job("A", shards=2, fused=False, minibatches=2)), mechanism=Mechanism(prefetch=False))
    commands = orchestrator.start()
    assert [str(command) for command in commands] == ["fetch A/F0#0", "compute A/F0#0"]
    commands = finish(orchestrator, commands, "A/F0#0")
    assert [str(command) for command in commands] == ["compute A/F1#0", "fetch A/F0#1"]
    assert commands[1].after == (commands[0].number,)


def test_a_run_is_finished_when_the_last_store_is():
    orchestrator = brain(workload(heavy("A")))
    commands = orchestrator.start()
    assert [command.kind for command in commands] == [Kind.FETCH, Kind.LOAD, Kind.COMPUTE, Kind.STORE]
    for command in commands:
        assert not orchestrator.finished
        assert orchestrator.handle(Finished(command, 0.0, 0.0)) == []
    assert orchestrator.finished


def test_a_failure_is_raised():
    orchestrator = brain(workload(job()))
    command = orchestrator.start()[-1]
    with pytest.raises(MemoryError, match="no room"):
        orchestrator.handle(Failed(command, MemoryError("no room")))


def test_a_unit_that_is_not_eligible_is_refused_with_the_choices_and_the_story():
    message = (
        r"stubborn chose A/L0#0 for device 0, where it is not eligible\."
        r"\n  Choose from view\.eligible\(0\); it held B/L0#0\.\n  Last commands: fetch A/L0#0 > "
    )
    with pytest.raises(PolicyError, match=message):
        simulate(workload(job("A"), job("B")), devices(1), Stubborn(), mechanism=Mechanism(prefetch=False))


def test_a_policy_that_never_chooses_is_an_error_not_a_hang():
    message = (
        r"idle chose nothing for any device, nothing runs, and work is left in A, B\."
        r"\n  Device 0 could run A/L0#0, B/L0#0\."
    )
    for effects in ("theory", "transfers"):
        with pytest.raises(PolicyError, match=message):
            simulate(workload(job("A"), job("B")), devices(1), Idle(), effects=effects)  # type: ignore[arg-type]


def test_a_policy_that_stops_choosing_is_an_error_that_names_the_jobs_left():
    with pytest.raises(PolicyError, match=r"script chose nothing .* work is left in B\.\n  Device 0 could run B/L0#0"):
        simulate(workload(job("A"), job("B")), devices(1), Script({"B/L0#0": 1}))


def test_a_policy_that_raises_is_named_with_the_line_at_fault():
    with pytest.raises(
        PolicyError, match=r"broken failed to choose for device 0: ZeroDivisionError: left no time\n  At .*:\d+"
    ):
        simulate(workload(job()), devices(1), Broken())


def test_none_means_ask_again_later():
    # device 1 may only take B, whose turn the script grants there alone
    timeline = simulate(workload(job("A"), job("B")), devices(2), Script({"B/L0#0": 1}))
    assert (units(timeline, device=0), units(timeline, device=1)) == (["A/L0#0"], ["B/L0#0"])


def plan(jobs: Workload, *lists: str) -> Plan:
    steps = tuple(tuple(Step(ShardUnit.parse(unit)) for unit in units.split()) for units in lists)
    return Plan(steps, jobs.digest, devices(len(lists)).digest)


def test_following_a_plan_issues_units_as_soon_as_those_before_them_are_issued():
    # the bound unit of device 1 follows one that still runs on device 0; its commands wait, not the brain
    jobs = workload(job("A", shards=2))
    commands = brain(jobs, FollowPlan(plan(jobs, "A/F0#0 A/B0#0", "A/L1#0")), count=2).start()
    assert computes(commands) == [(0, "A/F0#0"), (1, "A/L1#0"), (0, "A/B0#0")]


def test_a_plan_that_waits_for_itself_is_an_error_not_a_hang():
    jobs = workload(job("A", shards=2))
    with pytest.raises(PlanError, match=r"Device 0 is at A/L1#0; job 'A' can only go on with A/F0#0"):
        simulate(jobs, devices(1), FollowPlan(plan(jobs, "A/L1#0 A/F0#0 A/B0#0")))


def test_a_plan_may_use_more_devices_than_the_machine_would():
    jobs = workload(job("A", shards=2))
    followed = FollowPlan(plan(jobs, "A/F0#0 A/B0#0", "A/L1#0"))
    timeline = simulate(jobs, devices(2), followed, mechanism=Mechanism(cap_devices=True))
    assert units(timeline, device=1) == ["A/L1#0"]


def test_a_plan_whose_offsets_no_longer_hold_is_refused():
    jobs = workload(heavy("A"), heavy("B"))
    fresh = plan(jobs, "A/L0#0 B/L0#0")
    stale = Plan(((Step(ShardUnit.parse("A/L0#0"), offset=64), fresh.devices[0][1]),), jobs.digest, "")
    with pytest.raises(
        PlanError, match=r"the plan puts A/L0#0 at offset 64 and evicts \[\]; here it comes to 0 and \[\]"
    ):
        simulate(jobs, devices(1), FollowPlan(stale))


def test_a_plan_whose_evictions_no_longer_hold_is_refused():
    jobs = workload(heavy("A"), heavy("B"))
    stale = Plan(
        ((Step(ShardUnit.parse("A/L0#0"), offset=0, evict=("B/w0",)), Step(ShardUnit.parse("B/L0#0"))),),
        jobs.digest,
        "",
    )
    with pytest.raises(PlanError, match=r"evicts \['B/w0'\]; here it comes to 0 and \[\]"):
        simulate(jobs, devices(1), FollowPlan(stale))


def test_what_memory_a_planned_unit_took_is_remembered():
    jobs = workload(heavy("A"), heavy("B"))
    orchestrator = brain(jobs, FollowPlan(plan(jobs, "A/L0#0 B/L0#0")))
    orchestrator.start()
    assert {str(unit): found for unit, found in orchestrator.following.memory_of.items()} == {
        "A/L0#0": (0, (), "keep"),
        "B/L0#0": (64, (), "keep"),
    }


def test_a_policy_sees_how_a_unit_would_find_its_activations_and_what_that_costs():
    shard = Shard(1.0, 2.0, activation_bytes=64)
    jobs = workload(TrainingJob("A", (shard,) * 2, 1, activation_mode="keep"))
    orchestrator = brain(jobs, count=2, mechanism=Mechanism(prefetch=False))
    view, backward = View(orchestrator), ShardUnit.parse("A/B0#0")
    commands = orchestrator.start()
    assert [view.mode(backward, device) for device in (0, 1)] == ["keep", "recompute"]
    assert [view.compute_s(backward, device) for device in (0, 1)] == [2.0, 3.0]
    finish(orchestrator, commands, "A/F0#0")
    theory = View(brain(jobs, effects="theory"))
    assert theory.mode(backward, 0) == "keep"


def paging(jobs: Workload, policy: Policy, blocks: int, **options: object) -> Orchestrator:
    cluster = replace(devices(2), host_memory_bytes=blocks * 64, disk=Disk())
    return Orchestrator(jobs, cluster, policy, StatedCosts(jobs, cluster), **options)  # type: ignore[arg-type]


def test_where_host_memory_is_shared_by_turns_a_plans_units_are_bound_in_one_order():
    # gpu0  A#0 A#1 A#2 A#3     A's units take 1, B's 2: so many of A's come before B's second, which gpu1 binds ahead
    # gpu1  B#0     B#1
    jobs = workload(heavy("A", minibatches=4, compute_s=1.0), heavy("B", minibatches=2, compute_s=2.0))
    followed = FollowPlan(plan(jobs, "A/L0#0 A/L0#1 A/L0#2 A/L0#3", "B/L0#0 B/L0#1"))
    assert computes(paging(jobs, followed, 1).start()) == [
        (0, "A/L0#0"),
        (1, "B/L0#0"),
        (0, "A/L0#1"),
        (0, "A/L0#2"),
        (1, "B/L0#1"),
    ]
    assert computes(paging(jobs, followed, 2).start()) == [
        (0, "A/L0#0"),
        (1, "B/L0#0"),
        (0, "A/L0#1"),
        (1, "B/L0#1"),
    ]


def test_without_prefetch_nothing_is_bound_early_even_in_one_order():
    jobs = workload(heavy("A", minibatches=4, compute_s=1.0), heavy("B", minibatches=2, compute_s=2.0))
    followed = FollowPlan(plan(jobs, "A/L0#0 A/L0#1 A/L0#2 A/L0#3", "B/L0#0 B/L0#1"))
    orchestrator = paging(jobs, followed, 1, mechanism=Mechanism(prefetch=False))
    commands = orchestrator.start()
    assert computes(commands) == [(0, "A/L0#0"), (1, "B/L0#0")]
    assert computes(finish(orchestrator, commands, "B/L0#0")) == []  # gpu0 is busy, and its next one comes first
    assert computes(finish(orchestrator, commands, "A/L0#0")) == [(0, "A/L0#1")]


def test_in_one_order_a_plan_that_waits_for_itself_is_an_error_too():
    jobs = workload(heavy("A", shards=2))
    cluster = replace(devices(1), host_memory_bytes=64, disk=Disk())
    with pytest.raises(PlanError, match=r"Device 0 is at A/L1#0; job 'A' can only go on with A/F0#0"):
        simulate(jobs, cluster, FollowPlan(plan(jobs, "A/L1#0 A/F0#0 A/B0#0")))
