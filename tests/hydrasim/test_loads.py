"""What a unit lacks is loaded whole, ahead as far as there is room, and after what it must follow."""

from __future__ import annotations

from hydrasim import OURS, Mechanism, Shard, ShardUnit, TrainingJob, Workload
from hydrasim.command import Command, Kind, Lane
from hydrasim.dataflow import BlockKey, dataflow
from hydrasim.host_memory import HostMemory
from hydrasim.loads import Loads, missing_bytes
from hydrasim.memory import NEVER, Arena
from tests.worlds import BLOCK, devices

JOB = TrainingJob("A", (Shard(1.0, 1.0, 2 * BLOCK, BLOCK),), 1)
UNIT = ShardUnit.parse("A/L0#0")
STATE = BlockKey("w", "A", 0, -1)


def loaded(mechanism: Mechanism = OURS, ahead_bytes: int | None = None, *, valid: int = 0, previous: int = NEVER):
    """Return the loads of a unit, as lane, first byte, bytes and what they follow; what is late follows command 7."""
    issued: list[Command] = []

    def emit(kind, lane, device, unit, after, block=None, start=0, nbytes=0, **_):
        issued.append(
            Command(100 + len(issued), kind, device, lane, unit, tuple(sorted(after)), block.key, start, nbytes)
        )
        return issued[-1]

    arena, host = Arena(10 * BLOCK), HostMemory(Workload((JOB,)), devices(1), mechanism)
    if previous != NEVER:  # the upper half of the block's place is still in use
        arena.place(BlockKey("x", "B", 0, 0), BLOCK, BLOCK).last_compute = previous
        arena.retire(arena.blocks[BlockKey("x", "B", 0, 0)])
    arena.place(STATE, 3 * BLOCK, 0).valid_bytes = valid
    flow = dataflow(JOB, UNIT)
    assert missing_bytes(arena, flow) == 3 * BLOCK - valid
    numbers = Loads(0, mechanism, host, ahead_bytes).load(UNIT, arena, flow, previous, emit)
    assert numbers == {command.number for command in issued}
    assert missing_bytes(arena, flow) == 0
    assert all(command.kind is Kind.LOAD for command in issued)
    return [(command.lane, command.start, command.nbytes, command.after) for command in issued]


def test_only_what_is_missing_is_loaded():
    assert loaded() == [(Lane.H2D, 0, 3 * BLOCK, ())]
    assert loaded(valid=2 * BLOCK) == [(Lane.H2D, 2 * BLOCK, BLOCK, ())]
    assert loaded(valid=3 * BLOCK) == []


def test_what_lies_where_another_unit_still_works_waits_for_that():
    assert loaded(previous=7) == [
        (Lane.H2D, 0, BLOCK, ()),
        (Lane.H2D, 2 * BLOCK, BLOCK, ()),
        (Lane.H2D, BLOCK, BLOCK, (7,)),
    ]
    whole = Mechanism(partial_prefetch=False)
    assert loaded(whole, previous=7) == [(Lane.H2D, 0, 3 * BLOCK, (7,))]


def test_a_loading_zone_limits_what_is_loaded_ahead():
    early, late = loaded(ahead_bytes=BLOCK, previous=7)[:1], loaded(ahead_bytes=BLOCK, previous=7)[1:]
    assert early == [(Lane.H2D, 0, BLOCK, ())]
    assert all(7 in after for *_, after in late)


def test_synchronous_copies_take_the_compute_lane():
    assert loaded(Mechanism(synchronous_copies=True)) == [(Lane.COMPUTE, 0, 3 * BLOCK, ())]
