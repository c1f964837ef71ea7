"""What a plan tells of a block's next use."""

from __future__ import annotations

from hydrasim import Plan, ShardUnit
from hydrasim.dag import Templates
from hydrasim.dataflow import BlockKey
from hydrasim.future import Future
from hydrasim.plan import Step
from tests.worlds import job, workload

# device 0   F0#0       B0#0  F0#1       B0#1     positions 0..3
# device 1        L1#0             L1#1           positions 0..1
JOBS = workload(job(shards=2, minibatches=2))
STATE0, STATE1 = (BlockKey("w", "A", shard, -1) for shard in (0, 1))


def future(*lists: str) -> Future:
    steps = tuple(tuple(Step(ShardUnit.parse(f"A/{unit}")) for unit in units.split()) for units in lists)
    return Future(Plan(steps, "", ""), JOBS, {"A": Templates.of_job(JOBS.jobs[0])})


def unit(text: str) -> ShardUnit:
    return ShardUnit.parse(f"A/{text}")


SPLIT = future("F0#0 B0#0 F0#1 B0#1", "L1#0 L1#1")


def test_state_is_next_used_by_the_next_unit_of_its_shard():
    assert SPLIT.next_use(STATE0, unit("F0#0"), 0) == 1
    assert SPLIT.next_use(STATE0, unit("B0#0"), 0) == 2
    assert SPLIT.next_use(STATE1, unit("L1#0"), 1) == 1


def test_after_its_last_unit_state_is_used_no_more():
    assert SPLIT.next_use(STATE0, unit("B0#1"), 0) is None
    assert not SPLIT.stays(unit("B0#1"), 0)


def test_a_boundary_lives_within_its_minibatch():
    assert SPLIT.next_use(BlockKey("x", "A", 0, 0), unit("F0#0"), 0) == 1
    assert SPLIT.next_use(BlockKey("x", "A", 1, 0), unit("F0#0"), 0) is None  # L1 is device 1's
    assert SPLIT.next_use(BlockKey("x", "A", 1, 0), unit("F0#0"), 1) == 0
    assert SPLIT.next_use(BlockKey("g", "A", 0, 0), unit("L1#0"), 0) == 1


def test_a_copy_of_state_dies_when_another_device_updates_the_shard():
    # device 0   F0#0             F0#1 L1#1 B0#1
    # device 1        L1#0 B0#0                     B0#0 makes device 0's copy stale
    moved = future("F0#0 F0#1 L1#1 B0#1", "L1#0 B0#0")
    assert moved.next_use(STATE0, unit("F0#0"), 0) is None
    assert not moved.stays(unit("F0#0"), 0)


def test_a_forward_elsewhere_leaves_the_copy_valid_yet_it_does_not_stay():
    # device 0   F0#0 L1#0 B0#0       L1#1 B0#1
    # device 1                  F0#1
    lent = future("F0#0 L1#0 B0#0 L1#1 B0#1", "F0#1")
    assert lent.next_use(STATE0, unit("B0#0"), 0) == 4
    assert not lent.stays(unit("B0#0"), 0)  # the very next use is on device 1: store at once
    assert lent.stays(unit("L1#0"), 0)


def test_activations_are_of_use_to_a_backward_on_the_same_device():
    kept = BlockKey("a", "A", 0, 0)
    assert SPLIT.keeps(kept, unit("F0#0"), 0)
    assert not future("F0#0 F0#1 L1#1 B0#1", "L1#0 B0#0").keeps(kept, unit("F0#0"), 0)


def test_a_plan_may_give_activations_up():
    steps = (Step(unit("F0#0"), "recompute"), *(Step(unit(text)) for text in ("L1#0", "B0#0", "F0#1", "L1#1", "B0#1")))
    given_up = Future(Plan((steps,), "", ""), JOBS, {"A": Templates.of_job(JOBS.jobs[0])})
    assert not given_up.keeps(BlockKey("a", "A", 0, 0), unit("F0#0"), 0)
    assert given_up.keeps(BlockKey("a", "A", 0, 1), unit("F0#1"), 0)


def test_one_order_of_all_units_goes_by_when_they_would_start():
    # gpu0  F     B       F and B of A take 1, L of both 2
    # gpu1  LL LL         first B's, then A's
    jobs = workload(job("A", shards=2), job("B"))
    lists = ("A/F0#0 A/B0#0", "B/L0#0 A/L1#0")
    steps = tuple(tuple(Step(ShardUnit.parse(text)) for text in units.split()) for units in lists)
    templates = {each.name: Templates.of_job(each) for each in jobs.jobs}
    found = Future(Plan(steps, "", ""), jobs, templates)
    assert [str(each) for each in found.order] == ["A/F0#0", "B/L0#0", "A/L1#0", "A/B0#0"]
    assert found.next_turn(BlockKey("w", "A", 0, -1), ShardUnit.parse("A/F0#0")) == 3
    assert found.next_turn(BlockKey("w", "A", 0, -1), ShardUnit.parse("A/B0#0")) == 4  # never again


def test_the_order_ends_where_a_plan_waits_for_itself():
    assert [str(each) for each in future("F0#0 B0#0 L1#0 F0#1 L1#1 B0#1").order] == ["A/F0#0"]
