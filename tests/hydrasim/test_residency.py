"""What moves when a unit is bound: evictions, loads, stores, and what each of them waits for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hydrasim import OURS, PAPER, Link, Mechanism, Plan, Shard, ShardUnit, TrainingJob, simulate
from hydrasim.command import Command, Kind
from hydrasim.plan import Step
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.workload import Workload
from tests.worlds import BLOCK, BYTE_A_SECOND, Script, devices, heavy, times, workload

ONE_BY_ONE = replace(OURS, prefetch=False)


def moves(jobs: Workload, blocks: int, mechanism: Mechanism = ONE_BY_ONE, **options: object) -> list[str]:
    """Return the loads and stores of a run in the order in which they were issued."""
    return [str(command) for command in copies(jobs, blocks, mechanism, **options)]


def copies(
    jobs: Workload,
    blocks: int,
    mechanism: Mechanism = ONE_BY_ONE,
    policy: object = "fifo",
    count: int = 1,
    link: Link | None = None,
) -> list[Command]:
    commands: list[Command] = []
    simulate(jobs, devices(count, blocks, link), policy, mechanism=mechanism, commands=commands)  # type: ignore[arg-type]
    return [command for command in commands if command.kind in (Kind.LOAD, Kind.STORE)]


def turns(*names: str, minibatches: int = 2) -> Workload:
    return workload(*(heavy(name, minibatches=minibatches) for name in names))


def test_a_job_that_fits_moves_in_once_and_out_once():
    assert moves(workload(heavy("A", shards=2, minibatches=3)), 8) == [
        "load A/F0#0 A/w0",
        "load A/L1#0 A/w1",
        "store A/L1#2 A/w1",
        "store A/B0#2 A/w0",
    ]


def test_a_job_that_does_not_fit_is_written_through_and_reloaded():
    # one block of memory, two shards of one block: every unit but the one after a turn reloads
    assert moves(workload(heavy("A", shards=2)), 1) == [
        "load A/F0#0 A/w0",
        "load A/L1#0 A/w1",
        "store A/L1#0 A/w1",
        "load A/B0#0 A/w0",
        "store A/B0#0 A/w0",
    ]


def test_parameters_that_did_not_change_are_dropped_and_not_stored():
    assert "store A/L1#0 A/w0" not in moves(workload(heavy("A", shards=2)), 1, replace(ONE_BY_ONE, write_back="lazy"))


def test_lazy_state_is_stored_when_it_is_evicted():
    # A and B take turns in one block, so each turn evicts the other's dirty state
    assert moves(turns("A", "B"), 1, policy="round-robin") == [
        "load A/L0#0 A/w0",
        "store B/L0#0 A/w0",  # on behalf of B, which takes its place
        "load B/L0#0 B/w0",
        "store A/L0#1 B/w0",
        "load A/L0#1 A/w0",
        "store A/L0#1 A/w0",
        "load B/L0#1 B/w0",
        "store B/L0#1 B/w0",
    ]


def test_with_room_for_both_nothing_is_evicted():
    assert [move for move in moves(turns("A", "B"), 2, policy="round-robin") if "#1" in move] == [
        "store A/L0#1 A/w0",
        "store B/L0#1 B/w0",
    ]


def test_the_paper_demotes_everything_after_its_unit_and_stores_at_once():
    assert moves(turns("A"), 8, replace(PAPER, prefetch=False)) == [
        "load A/L0#0 A/w0",
        "store A/L0#0 A/w0",
        "store A/L0#1 A/w0",  # the same state serves the next unit, so it stays
    ]
    assert moves(turns("A", "B"), 8, replace(PAPER, prefetch=False), policy="round-robin") == [
        f"{kind} {name}/L0#{n} {name}/w0" for n in (0, 1) for name in "AB" for kind in ("load", "store")
    ]


def test_the_released_code_keeps_shard_0_while_its_job_is_bound():
    released = Mechanism(prefetch=False, keep="released", write_back="through")
    assert [m for m in moves(workload(heavy("A", shards=2)), 8, released) if m.startswith("load")] == [
        "load A/F0#0 A/w0",
        "load A/L1#0 A/w1",
    ]
    both = workload(heavy("A", shards=2), heavy("B", shards=2))
    loads = [m for m in moves(both, 8, released, policy="round-robin") if m.startswith("load")]
    assert loads[-2:] == ["load A/B0#0 A/w0", "load B/B0#0 B/w0"]


def test_a_forward_loads_parameters_only_and_the_backward_the_rest():
    jobs = workload(TrainingJob("A", (Shard(1.0, 1.0, BLOCK, 2 * BLOCK),), 1, fused=False, activation_mode="keep"))
    loads = [c for c in copies(jobs, 8) if c.kind is Kind.LOAD]
    assert [(str(c.unit), c.start, c.nbytes) for c in loads] == [("A/F0#0", 0, BLOCK), ("A/B0#0", BLOCK, 2 * BLOCK)]


def test_the_update_waits_for_the_store_that_still_reads_the_state():
    # write-through:  comp A0 . A1      the store of version 1 must end before version 2 is written
    #                 d2h  .  s .  s
    commands: list[Command] = []
    through = replace(OURS, write_back="through")
    timeline = simulate(turns("A"), devices(1, link=BYTE_A_SECOND), "fifo", mechanism=through, commands=commands)
    store = next(c for c in commands if c.kind is Kind.STORE)
    update = next(c for c in commands if str(c) == "compute A/L0#1")
    assert store.number in update.after
    assert times(timeline, "compute") == [(64.0, 128.0), (192.0, 256.0)]


def test_an_update_elsewhere_drops_the_copies_it_makes_stale():
    # gpu0 F0 keeps w0's parameters; gpu1 updates it; gpu0's next F0 must load it anew
    job = heavy("A", shards=2, minibatches=2)
    script = Script({"A/B0#0": 1})
    loads = [
        (c.device, str(c.unit))
        for c in copies(workload(job), 8, policy=script, count=2)
        if str(c.block) == "A/w0" and c.kind is Kind.LOAD
    ]
    assert loads == [(0, "A/F0#0"), (1, "A/B0#0"), (0, "A/F0#1")]


def test_a_load_waits_for_the_store_of_what_lay_there():
    # one block: w A is stored (64 s) before w B may be loaded over it
    #   h2d  A . . B        comp . A . . B        d2h  . . A .
    timeline = simulate(turns("A", "B", minibatches=1), devices(1, 1, BYTE_A_SECOND), "fifo", mechanism=OURS)
    assert times(timeline, "load", "B/L0#0") == [(192.0, 256.0)]


def test_bytes_behind_a_loaded_prefix_wait_for_the_store_that_reads_them():
    # A's state fills both blocks, and its store takes 128 s. B's forward needs only the first block, its
    # backward the second; neither may be overwritten while the store still reads it.
    #   comp  A                     F B
    #   d2h      A A                          the store of both blocks: 192 .. 320
    #   h2d          p                o       parameters after it, and so the optimizer's half
    full = heavy("A", blocks=2)
    half = TrainingJob("B", (Shard(0.0, 0.0, BLOCK, BLOCK),), 1, fused=False, activation_mode="keep")
    found = copies(workload(full, half), 2, OURS, link=BYTE_A_SECOND)
    store = next(c for c in found if str(c) == "store B/F0#0 A/w0" or str(c) == "store A/L0#0 A/w0")
    loads = [c for c in found if c.kind is Kind.LOAD and str(c.block) == "B/w0"]
    assert [(c.start, c.nbytes) for c in loads] == [(0, BLOCK), (BLOCK, BLOCK)]
    assert all(store.number in c.after for c in loads)


def test_stores_of_one_state_from_two_devices_keep_their_order():
    # storing clean state too: gpu0's forward stores version 1 while gpu1, which holds it as well, updates
    mechanism = Mechanism(prefetch=False, store_clean=True)
    job = TrainingJob("A", (Shard(0.0, 1.0, BLOCK),), 2, fused=False, activation_mode="keep")
    script = Script({"A/B0#0": 1, "A/B0#1": 1})
    stores = [c for c in copies(workload(job), 8, mechanism, script, count=2) if c.kind is Kind.STORE]
    assert [c.device for c in stores] == [0, 1, 0, 1]
    for earlier, later in zip(stores, stores[1:], strict=False):
        assert earlier.number in later.after


def test_state_without_parameters_is_not_stored_by_a_forward():
    job = TrainingJob("A", (Shard(0.0, 1.0, 0, BLOCK),), 1, fused=False)
    assert moves(workload(job), 8, Mechanism(prefetch=False, store_clean=True)) == [
        "load A/B0#0 A/w0",
        "store A/B0#0 A/w0",
    ]


def trainee(mode: str, name: str = "A", shards: int = 2, minibatches: int = 1, **fields: object) -> TrainingJob:
    """Return a job of shards with a block of parameters and one of activations; forwards take 1, backwards 2."""
    shard = Shard(1.0, 2.0, BLOCK, activation_bytes=BLOCK)
    return TrainingJob(name, (shard,) * shards, minibatches, activation_mode=mode, **fields)


def planned(jobs: Workload, *lists: str) -> FollowPlan:
    """Return the policy that follows a plan of units, device by device."""
    steps = tuple(tuple(Step(ShardUnit.parse(unit)) for unit in units.split()) for units in lists)
    return FollowPlan(Plan(steps, jobs.digest, ""))


def backwards(
    jobs: Workload, blocks: int, mechanism: Mechanism = ONE_BY_ONE, policy: object = "fifo", count: int = 1
) -> dict[str, tuple[str, float]]:
    """Return by backward unit the mode it came to and the seconds it took."""
    commands: list[Command] = []
    timeline = simulate(jobs, devices(count, blocks), policy, mechanism=mechanism, commands=commands)  # type: ignore[arg-type]
    seconds = {span.number: span.duration_s for span in timeline.spans}
    return {str(c.unit): (c.mode, seconds[c.number]) for c in commands if str(c).startswith("compute A/B")}


def test_activations_that_stay_on_the_device_spare_the_backward_its_forward():
    assert backwards(workload(trainee("keep")), 8) == {"A/B0#0": ("keep", 2.0)}
    assert backwards(workload(trainee("recompute")), 8) == {"A/B0#0": ("recompute", 3.0)}
    assert not [move for move in moves(workload(trainee("keep")), 8) if "/a" in move]


def test_kept_activations_that_made_room_are_recomputed():
    # two blocks: F1's state and activations take the places of F0's; L2's state takes that of F1's state
    jobs = workload(trainee("keep", shards=3))
    assert backwards(jobs, 2) == {"A/B1#0": ("keep", 2.0), "A/B0#0": ("recompute", 3.0)}


@pytest.mark.parametrize("mode", ["keep", "spill"])
def test_activations_made_by_another_device_are_of_no_use(mode: str):
    script = Script({"A/B0#0": 1})
    assert backwards(workload(trainee(mode)), 8, policy=script, count=2) == {"A/B0#0": ("recompute", 3.0)}


def test_spilled_activations_are_stored_at_once_and_come_back():
    jobs, stores = workload(trainee("spill", shards=3)), ["store A/F0#0 A/a0#0", "store A/F1#0 A/a1#0"]
    assert [move for move in moves(jobs, 2) if "/a" in move] == [*stores, "load A/B0#0 A/a0#0"]
    assert [move for move in moves(jobs, 8) if "/a" in move] == stores
    assert backwards(jobs, 2) == {"A/B1#0": ("spill", 2.0), "A/B0#0": ("spill", 2.0)}


def test_the_last_unfused_shard_keeps_activations_too():
    jobs = workload(trainee("keep", fused=False))
    assert backwards(jobs, 8) == {"A/B1#0": ("keep", 2.0), "A/B0#0": ("keep", 2.0)}


def test_without_activation_bytes_there_is_nothing_to_lose():
    jobs = workload(heavy("A", shards=2))
    assert backwards(jobs, 1) == {"A/B0#0": ("keep", 64.0)}


def test_demoting_everything_demotes_kept_activations_too():
    assert backwards(workload(trainee("keep")), 8, replace(PAPER, prefetch=False)) == {"A/B0#0": ("recompute", 3.0)}


def test_kept_activations_that_lie_in_the_way_are_given_up():
    # after F1: w0 w1 . a1 a0 x1 x1. B1 makes g0, two blocks wide, and finds no place beside its own w1, a1 and x1:
    # everything is cleared away, and what was kept is lost
    kept = Shard(1.0, 2.0, BLOCK, activation_bytes=BLOCK)
    job = TrainingJob("A", (replace(kept, output_bytes=2 * BLOCK), kept), 1, fused=False, activation_mode="keep")
    assert backwards(workload(job), 7) == {"A/B1#0": ("recompute", 3.0), "A/B0#0": ("recompute", 3.0)}
    assert backwards(workload(job), 8) == {"A/B1#0": ("keep", 2.0), "A/B0#0": ("keep", 2.0)}


def test_under_a_plan_a_forward_keeps_nothing_for_a_backward_elsewhere_or_given_up():
    jobs = workload(trainee("spill"))
    elsewhere = planned(jobs, "A/F0#0 A/L1#0", "A/B0#0")
    assert not [move for move in moves(jobs, 8, policy=elsewhere, count=2) if "/a" in move]
    assert backwards(jobs, 8, policy=elsewhere, count=2) == {"A/B0#0": ("recompute", 3.0)}
    here = planned(jobs, "A/F0#0 A/L1#0 A/B0#0")
    assert backwards(jobs, 8, policy=here) == {"A/B0#0": ("spill", 2.0)}
    first, *later = here.plan.devices[0]
    given_up = FollowPlan(replace(here.plan, devices=((replace(first, mode="recompute"), *later),)))
    assert backwards(jobs, 8, policy=given_up) == {"A/B0#0": ("recompute", 3.0)}


def test_least_recently_used_goes_first_even_if_a_plan_knows_better():
    # three blocks: D takes the place of B, which is used last, or of A, which was used first
    jobs = workload(heavy("A", minibatches=2), heavy("B", minibatches=2), heavy("C", minibatches=2), heavy("D"))
    plan = planned(jobs, "A/L0#0 B/L0#0 C/L0#0 D/L0#0 A/L0#1 C/L0#1 B/L0#1")
    lazy = replace(ONE_BY_ONE, write_back="lazy")
    assert "load A/L0#1 A/w0" not in moves(jobs, 3, lazy, policy=plan)
    assert "load A/L0#1 A/w0" in moves(jobs, 3, replace(lazy, eviction="lru"), policy=plan)


def test_a_compute_says_what_live_blocks_hold():
    commands: list[Command] = []
    simulate(workload(heavy("A", blocks=2), heavy("B")), devices(1, 4), "fifo", mechanism=OURS, commands=commands)
    computes = [command for command in commands if command.kind is Kind.COMPUTE]
    assert [command.live_bytes for command in computes] == [2 * BLOCK, 3 * BLOCK]
    assert {command.live_bytes for command in commands if command.kind is not Kind.COMPUTE} == {0}
