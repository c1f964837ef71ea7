"""What moves when a unit is bound: evictions, loads, stores, and what each of them waits for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hydrasim import OURS, PAPER, Link, Mechanism, Shard, TrainingJob, simulate
from hydrasim.command import Command, Kind
from hydrasim.errors import ShardTooLarge
from hydrasim.orchestrator import Orchestrator
from hydrasim.policies import make_policy
from hydrasim.profile import StatedCosts
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


def fits(jobs: Workload, blocks: int, mechanism: Mechanism = OURS, **fields: object) -> None:
    cluster = devices(1, blocks, **fields)  # type: ignore[arg-type]
    Orchestrator(jobs, cluster, make_policy("fifo"), StatedCosts(jobs, cluster), mechanism=mechanism)


def test_a_unit_that_cannot_fit_is_refused_before_anything_runs_with_the_numbers_and_a_way_out():
    large = TrainingJob("A", (Shard(1, 1, BLOCK), Shard(1, 1, 10 * BLOCK, working_bytes=BLOCK)), 1)
    fits(workload(large), 11)
    message = (
        r"shard 1 of 'A' needs 640 bytes for state, inputs and outputs; device 0 has 576 left of 640 "
        r"\(activation peak 64, loading zone 0\)\.\n  Cut the model into more shards, lower loading_zone_fraction"
    )
    with pytest.raises(ShardTooLarge, match=message):
        fits(workload(large), 10)


def test_the_loading_zone_is_not_for_the_running_unit():
    jobs = workload(heavy("A", blocks=3))
    zone = Mechanism(loading_zone_fraction=0.25)
    fits(jobs, 4, zone)
    with pytest.raises(ShardTooLarge, match="device 0 has 128 left of 192 .*loading zone 64"):
        fits(workload(heavy("A", blocks=3)), 3, Mechanism(loading_zone_fraction=0.4))


def test_a_device_smaller_than_the_activations_says_so():
    jobs = workload(TrainingJob("A", (Shard(1, 1, BLOCK, working_bytes=5 * BLOCK),), 1))
    with pytest.raises(ShardTooLarge, match="device 0 has 0 left of 192 .activation peak 320"):
        fits(jobs, 3)


def test_memory_between_alignment_units_is_not_counted():
    jobs = workload(heavy("A", blocks=2))
    cluster = devices(1, 2)
    short = replace(cluster, devices=(replace(cluster.devices[0], memory_bytes=127),))
    with pytest.raises(ShardTooLarge, match="needs 128 bytes .* has 64 left of 127"):
        simulate(jobs, short, "fifo")


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
