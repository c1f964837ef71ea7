"""The simulated backend, and whole runs whose every time is known beforehand."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from hydrasim import (
    HYDRA_RELEASED,
    OURS,
    Bus,
    Cluster,
    Device,
    Mechanism,
    Phase,
    Shard,
    ShardUnit,
    TrainingJob,
    simulate,
)
from hydrasim.charging import charging
from hydrasim.command import Command, Kind, Lane
from hydrasim.dag import minibatch_dag
from hydrasim.errors import ProfileError, StallError, WorkloadError
from hydrasim.optimum.bounds import lower_bounds
from hydrasim.plan import Plan
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.profile import StatedCosts
from hydrasim.sim_backend import SimBackend
from hydrasim.view import View
from tests.worlds import BLOCK, BYTE_A_SECOND, Script, devices, fig6, heavy, job, spans, times, units, workload


@pytest.mark.parametrize(("policy", "makespan_s"), [("model-parallel", 12), ("task-parallel", 8), ("sharded-lrtf", 6)])
def test_fig6(policy: str, makespan_s: float):
    # three jobs of F0 F1 B1 B0, every unit takes 1; lower case: the backward units
    # model-parallel  gpu0 A..aB..bC..c   task-parallel  gpu0 AAaaCCcc   sharded-lrtf  gpu0 ACBacb
    #                 gpu1 .Aa..Bb..Cc.                  gpu1 BBbb....                 gpu1 BACbac
    assert simulate(fig6(), devices(2), policy, effects="theory").makespan_s == makespan_s


def test_a_missing_edge_lets_two_units_of_a_job_run_at_once():
    # with the edge  gpu0 F L L B      without it  gpu0 F . B      B0 follows L1 alone
    #                gpu1 . . . .                  gpu1 L L .
    one, chain = job(shards=2), minibatch_dag(job(shards=2))
    assert simulate(workload(one), devices(2), "fifo", effects="theory").makespan_s == 4.0
    chain.remove_edge((Phase.FORWARD, 0), (Phase.LOSS, 1))
    timeline = simulate(workload(one), devices(2), "fifo", effects="theory", dags={"A": chain})
    assert times(timeline, "compute", "A/L1#0") == [(0.0, 2.0)]
    assert timeline.makespan_s == 3.0


def test_prefetch_hides_a_load():
    # gpu0 compute  . A A B B          a load takes 64 s, a unit 128
    # gpu0 h2d      A B . . .          B's load runs under A's compute; B starts at once
    jobs = workload(heavy("A", compute_s=128.0), heavy("B", compute_s=128.0))
    timeline = simulate(jobs, devices(1, link=BYTE_A_SECOND), "fifo")
    assert times(timeline, "load") == [(0.0, 64.0), (64.0, 128.0)]
    assert times(timeline, "compute") == [(64.0, 192.0), (192.0, 320.0)]


def test_without_prefetch_the_load_waits_for_the_unit_before():
    # gpu0 compute  . A A . B B
    # gpu0 h2d      A . . B . .
    jobs = workload(heavy("A", compute_s=128.0), heavy("B", compute_s=128.0))
    timeline = simulate(jobs, devices(1, link=BYTE_A_SECOND), "fifo", mechanism=Mechanism(prefetch=False))
    assert times(timeline, "load") == [(0.0, 64.0), (192.0, 256.0)]
    assert times(timeline, "compute") == [(64.0, 192.0), (256.0, 384.0)]


def zone_loads(**switches: object) -> list[tuple[float, float]]:
    """Return the loads of two jobs of 4 blocks each, on 16 blocks of which 2 are the loading zone."""
    jobs = workload(*(heavy(name, compute_s=1024.0, blocks=4) for name in "AB"))
    mechanism = Mechanism(loading_zone_fraction=0.125, **switches)
    return times(simulate(jobs, devices(1, blocks=16, link=BYTE_A_SECOND), "fifo", mechanism=mechanism), "load")


def test_the_loading_zone_takes_the_part_that_fits_and_the_rest_waits_for_the_unit():
    # gpu0 compute  .... AAAAAAAA .. B      4 blocks of 64 s each; the first load has nobody to wait for
    # gpu0 h2d      AAAA bb ..... bb        two blocks of B under A, two after it
    assert zone_loads() == [(0.0, 128.0), (128.0, 256.0), (256.0, 384.0), (1280.0, 1408.0)]


def test_without_partial_prefetch_what_exceeds_the_zone_waits_whole():
    # gpu0 compute  .... AAAAAAAA .... B
    # gpu0 h2d      AAAA ........ BBBB
    assert zone_loads(partial_prefetch=False) == [(0.0, 256.0), (1280.0, 1536.0)]


def test_what_fits_the_zone_is_prefetched_whole_either_way():
    for switches in ({}, {"partial_prefetch": False}):
        jobs = workload(heavy("A", compute_s=1024.0, blocks=4), heavy("B", blocks=2))
        mechanism = Mechanism(loading_zone_fraction=0.125, **switches)
        timeline = simulate(jobs, devices(1, blocks=16, link=BYTE_A_SECOND), "fifo", mechanism=mechanism)
        assert times(timeline, "load", "B/L0#0") == [(256.0, 384.0)]


def test_the_released_machine_copies_on_the_compute_lane_and_stores_what_did_not_change():
    # ours      h2d A        B             released  compute A L . s B L . s    one lane for all, so
    #           comp  A ...                          nothing overlaps anything on the device
    jobs = workload(*(heavy(name, shards=2, compute_s=128.0) for name in "AB"))
    cluster = devices(1, link=BYTE_A_SECOND)
    ours = simulate(jobs, cluster, "hydra-released", mechanism=OURS)
    released = simulate(jobs, cluster, "hydra-released", mechanism=HYDRA_RELEASED)
    assert {span.lane for span in released.spans if span.device == 0} == {"compute"}
    assert {span.lane for span in ours.spans if span.device == 0} == {"h2d", "compute", "d2h"}
    stored = {name: {s.block for s in spans(timeline, "store") if "/F" in s.unit} for name, timeline in
              (("ours", ours), ("released", released))}  # fmt: skip
    assert stored == {"ours": set(), "released": {"A/w0", "B/w0"}}
    busy = sum(span.duration_s for span in released.spans if span.device == 0)
    assert released.makespan_s == busy
    assert ours.makespan_s < released.makespan_s


def test_the_released_machine_uses_no_more_devices_than_jobs():
    timeline = simulate(workload(heavy("A", shards=3)), devices(3), "random", mechanism=HYDRA_RELEASED)
    assert {span.device for span in timeline.spans if span.device >= 0} == {0}


def test_policies_see_the_capped_number_of_devices():
    # model parallelism over three devices would wait for two that the machine does not use
    timeline = simulate(workload(heavy("A", shards=3)), devices(3), "model-parallel", mechanism=HYDRA_RELEASED)
    assert len(units(timeline, device=0)) == 5


def test_state_written_back_lazily_is_flushed_when_another_device_needs_it():
    # gpu0  L0#0 keeps w0 v1, dirty    | store v1        mini-batch 1 runs on gpu 1
    # gpu1                             |          load v1  L0#1  store v2
    two = heavy("A", minibatches=2)
    commands: list[Command] = []
    simulate(workload(two), devices(2, link=BYTE_A_SECOND), Script({"A/L0#1": 1}), commands=commands)
    stores = [c for c in commands if c.kind is Kind.STORE]
    loads = [c for c in commands if c.kind is Kind.LOAD]
    assert [(c.device, str(c.unit)) for c in stores] == [(0, "A/L0#1"), (1, "A/L0#1")]
    assert [(c.device, str(c.unit)) for c in loads] == [(0, "A/L0#0"), (1, "A/L0#1")]
    assert stores[0].number in loads[1].after


def test_a_job_that_stays_stores_its_state_once_at_the_end():
    timeline = simulate(workload(heavy("A", minibatches=4)), devices(1), "fifo")
    assert [span.unit for span in spans(timeline, "store")] == ["A/L0#3"]
    assert len(spans(timeline, "load")) == 1


def test_a_faster_device_computes_faster():
    timeline = simulate(workload(job()), devices(1, speed=4.0), "fifo", effects="theory")
    assert timeline.makespan_s == 0.5


def test_a_minibatch_is_fetched_during_the_one_before_and_after_its_last_forward():
    # loader   x . x          fetch #1 follows F1#0, and then runs under B1 and B0
    # compute  . F F B B F F B B
    fetching = job(shards=2, fused=False, minibatches=2, fetch_s=1.0)
    timeline = simulate(workload(fetching), devices(1), "fifo")
    assert times(timeline, "fetch") == [(0.0, 1.0), (3.0, 4.0)]
    assert times(timeline, "compute", "A/F0#0") == [(1.0, 2.0)]
    assert timeline.makespan_s == 9.0


def test_a_minibatch_without_bytes_is_waited_for_all_the_same():
    timeline = simulate(workload(job(fetch_s=4.0)), devices(1), "fifo")
    assert times(timeline, "compute") == [(4.0, 6.0)]


def test_the_policy_sees_beliefs_and_the_world_charges_costs():
    jobs = workload(job("A", seconds=1.0), job("B", seconds=2.0))
    believed = workload(job("A", seconds=2.0), job("B", seconds=1.0))
    beliefs = StatedCosts(believed, devices(1))
    timeline = simulate(jobs, devices(1), "sharded-lrtf", beliefs=beliefs, effects="theory")
    assert units(timeline) == ["A/L0#0", "B/L0#0"]
    assert times(timeline, "compute", "A/L0#0") == [(0.0, 2.0)]


def test_the_seed_fixes_a_random_policy():
    jobs = workload(*(job(name, shards=2) for name in "ABCDE"))
    first, again, other = (simulate(jobs, devices(2), "random", seed=seed) for seed in (0, 0, 1))
    assert first.to_lines() == again.to_lines()
    assert units(first) != units(other)


def test_every_interpreter_writes_the_same_bytes():
    program = (
        "from hydrasim import *\n"
        "jobs = Workload(tuple(TrainingJob(n, (Shard(1, 1, 100, 100, 100),) * 2, 3) for n in 'ABC'))\n"
        "print(simulate(jobs, Cluster.of(2, Device(1024, h2d=Link(64.0))), 'random').to_lines())"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def free_costs() -> StatedCosts:
    return StatedCosts(workload(job(shards=2)), devices(2))


def compute(number: int, *after: int, device: int = 0) -> Command:
    return Command(number, Kind.COMPUTE, device, Lane.COMPUTE, ShardUnit("A", Phase.FORWARD, 0, 0), after)


def test_a_lane_holds_its_place_while_its_head_waits():
    # gpu0  0 0 . 2        1 waits for nobody but 0; 3 stands behind 2, which waits for 1 on gpu 1
    # gpu1  . 1            though 3 could start at once: first come, first served
    backend = SimBackend(charging(free_costs(), devices(2)))
    backend.submit([compute(0, device=1), compute(1, 0, device=1), compute(2, 1), compute(3)])
    ends = {}
    for _ in range(4):
        event = backend.next_event()
        ends[event.command.number] = (event.start_s, event.end_s)
    assert ends == {0: (0.0, 1.0), 1: (1.0, 2.0), 2: (2.0, 3.0), 3: (3.0, 4.0)}


def test_on_its_way_no_command_overtakes_another_of_its_lane():
    # on their way  0 3 s, 1 1 s to the same lane, 2 1 s to another
    backend = SimBackend(
        charging(free_costs(), devices(2)), dispatch_s=lambda command, _: 1.0 if command.number else 3.0
    )
    backend.submit([compute(0), compute(1), compute(2, device=1)])
    events = [backend.next_event() for _ in range(3)]
    found = {event.command.number: (event.issued_s, event.start_s) for event in events}
    assert found == {2: (1.0, 1.0), 0: (3.0, 3.0), 1: (3.0, 4.0)}


def test_on_its_way_rounding_lets_no_command_overtake_another():
    # 1 is issued at 0.2 to arrive with 0 at 0.9, and 0.2 + (0.9 - 0.2) is a little less than 0.9
    way_s = {0: 0.9, 1: 0.0, 2: 0.0}
    seconds = {0: 1.0, 1: 1.0, 2: 0.2}
    backend = SimBackend(lambda c: seconds[c.number], dispatch_s=lambda command, _: way_s[command.number])
    backend.submit([compute(0), compute(2, device=1)])
    assert backend.next_event().end_s == 0.2
    backend.submit([compute(1)])
    assert [backend.next_event().command.number for _ in range(2)] == [0, 1]


def test_commands_that_can_never_start_are_an_error_with_their_story():
    # 1 waits for 2, which stands behind it on the same lane
    backend = SimBackend(charging(free_costs(), devices(2)))
    backend.submit([compute(0), compute(1, 2), compute(2)])
    assert backend.next_event().command.number == 0
    with pytest.raises(
        StallError, match=r"nothing can start any more(.|\n)*0 compute: .*\(command 1\) waits for \[2\]"
    ):
        backend.next_event()


def test_waiting_with_nothing_submitted_is_a_stall():
    with pytest.raises(StallError, match="nothing can start any more"):
        SimBackend(charging(free_costs(), devices(2))).next_event()


def test_all_jobs_of_one_shard_and_no_bytes_only_compute():
    jobs = workload(TrainingJob("A", (Shard(0.0, 1.0),), 2, activation_mode="keep"))
    commands: list[Command] = []
    timeline = simulate(jobs, devices(1), "fifo", commands=commands)
    assert {command.kind for command in commands} == {Kind.FETCH, Kind.COMPUTE}
    assert timeline.makespan_s == 2.0


def test_a_boundary_that_stays_is_stored_but_not_loaded_again():
    shard = Shard(1.0, 1.0, output_bytes=BLOCK)
    jobs = workload(TrainingJob("A", (shard, shard), 1))
    kept = simulate(jobs, devices(1), "fifo")
    spilled = simulate(jobs, devices(1), "fifo", mechanism=replace(OURS, skip_spill=False))
    assert [span.block for span in spans(kept, "store")] == ["A/x1#0", "A/g0#0"]
    assert spans(kept, "load") == []
    assert [span.block for span in spans(spilled, "load")] == ["A/x1#0", "A/g0#0"]


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), -1.0, -5e-324, 1e13])
@pytest.mark.parametrize("method", ["compute_s", "copy_s", "fetch_s"])
def test_costs_that_are_no_times_are_refused(method: str, seconds: float):
    # Negative ones once were SimPy's ValueError, infinite ones a makespan that JSON cannot say.
    world, cluster = workload(heavy("A")), devices(1, link=BYTE_A_SECOND)
    costs = StatedCosts(world, cluster)
    setattr(costs, method, lambda *_: seconds)
    with pytest.raises(ProfileError, match=rf"the costs say that .* takes {seconds} s; it must be from 0 to 1e\+12 s"):
        simulate(world, cluster, "fifo", costs=costs)


def test_a_simulation_without_end_is_refused_before_it_begins():
    with pytest.raises(
        WorkloadError, match="the workload has 18,000,000,000 units; at most 16,777,216 can be simulated"
    ):
        simulate(workload(job(minibatches=10**10), job("B", minibatches=8 * 10**9)), devices(1), "fifo")


def test_work_whose_rate_changes_many_times_ends_when_it_should():
    # A loads 1000 blocks at a third of the bus beside two, at half beside one, and so on: small ones come and go
    link = replace(BYTE_A_SECOND, shared="bus")
    cluster = Cluster((Device(1 << 20, h2d=link),) * 3, buses=(Bus("bus", 1.0),))
    jobs = workload(heavy("A", blocks=1000), *(heavy(f"j{n}", compute_s=0.25 * n) for n in range(1, 200)))
    script = Script({f"j{n}/L0#0": 1 + n % 2 for n in range(1, 200)})
    timeline = simulate(jobs, cluster, script)
    loads = spans(timeline, "load")
    assert loads[0].unit == "A/L0#0"
    assert timeline.makespan_s == pytest.approx(loads[0].end_s + 64.0, rel=1e-12)
    # the bus is never idle while A loads, so it has carried A's bytes and all that others have loaded meanwhile
    others = sum(span.nbytes for span in loads[1:])
    assert loads[0].end_s == pytest.approx(64 * 1000 + others, rel=1e-12)


def late(name: str, arrival_s: float, **fields: object) -> TrainingJob:
    return replace(heavy(name, **fields), arrival_s=arrival_s)


@pytest.mark.parametrize("policy", ["fifo", "sharded-lrtf", "random"])
@pytest.mark.parametrize("effects", ["theory", "overheads"])
def test_a_job_does_nothing_before_it_arrives(policy: str, effects: str):
    jobs = workload(heavy("A", minibatches=2), late("B", 500.0, minibatches=2), late("C", 96.0))
    cluster = devices(2, link=BYTE_A_SECOND)
    first = simulate(jobs, cluster, policy, effects=effects)
    followed = simulate(jobs, cluster, FollowPlan(Plan.of(first, jobs, cluster)), effects=effects)
    for timeline in (first, followed):
        began_s = {name: min(span.start_s for span in timeline.spans if span.job == name) for name in "ABC"}
        assert began_s["B"] == 500.0
        assert began_s["C"] == 96.0
        costs = StatedCosts(jobs, cluster)
        bounds = lower_bounds(jobs, cluster, costs, effects)
        assert timeline.makespan_s >= max(bounds.values()) >= 500.0 + 2 * 64.0


def test_an_idle_machine_waits_for_a_job():
    # the only job comes at 8; its load takes 64, its unit 64, its store 64
    timeline = simulate(workload(late("A", 8.0)), devices(1, link=BYTE_A_SECOND), "fifo")
    assert times(timeline, "compute") == [(72.0, 136.0)]
    assert timeline.makespan_s == 200.0


def test_policies_see_only_jobs_that_have_arrived():
    seen: list[tuple[str, ...]] = []

    class Watching(Script):
        def choose(self, device: int, view: View) -> ShardUnit | None:
            seen.append(tuple(unit.job for unit in view.eligible(device)))
            return super().choose(device, view)

    simulate(workload(heavy("A"), late("B", 1e3)), devices(1), Watching())
    assert seen == [("A",), ("B",)]
