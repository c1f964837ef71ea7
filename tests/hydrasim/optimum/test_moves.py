"""The least that units move: loads, stores, what has no room beside another, hops and fetches."""

from __future__ import annotations

from dataclasses import replace

from hydrasim import Cluster, Device, Shard, TrainingJob, Workload
from hydrasim.optimum.moves import Moves
from hydrasim.optimum.problem import problem_of
from hydrasim.profile import StatedCosts
from tests.worlds import BLOCK, BYTE_A_SECOND, devices, heavy, workload


def moves_of(jobs: Workload, cluster: Cluster, *, prefetch: bool = True) -> Moves:
    costs = StatedCosts(jobs, cluster)
    return Moves(problem_of(jobs, cluster, costs), jobs, cluster, costs, prefetch=prefetch)


def two_shards(minibatches: int = 2, **fields: object) -> TrainingJob:
    """Return a job whose units are F0 L1 B0, F0 L1 B0; a boundary of a block, optimizer state of one."""
    shard = Shard(1.0, 1.0, parameter_bytes=BLOCK, optimizer_bytes=BLOCK, output_bytes=BLOCK)
    return TrainingJob("A", (shard, replace(shard, output_bytes=0)), minibatches, **fields)


def test_a_forward_needs_parameters_and_stores_nothing():
    moves = moves_of(workload(two_shards()), devices(1, link=BYTE_A_SECOND))
    assert [load[0] for load in moves.load_s[:3]] == [64, 128, 128]
    assert [store[0] for store in moves.store_s[:3]] == [0, 128, 128]


def test_a_state_lasts_from_an_update_to_the_next_use():
    moves = moves_of(workload(two_shards()), devices(1))
    # F0 L1 B0 F0 L1 B0
    assert moves.version(0) == (None, [])
    assert moves.version(2) == (None, [0])  # B0 finds what F0 loaded
    assert moves.version(3) == (2, [2])
    assert moves.version(5) == (2, [3, 2])
    assert [moves.is_last_update(j) for j in range(6)] == [False, False, False, False, True, True]


def test_what_has_no_room_beside_a_unit_is_loaded_after_it():
    # A takes one block, B two; of the three blocks of memory two are free beside A, one beside B
    jobs = workload(heavy("A"), heavy("B", blocks=2))
    moves = moves_of(jobs, devices(1, blocks=3, link=BYTE_A_SECOND))
    assert moves.rest_s[0][0][1] == 0
    assert moves_of(jobs, devices(1, blocks=2, link=BYTE_A_SECOND)).rest_s[0] == [
        [0, 64 + 64],  # A's update leaves, then the half of B that lay in its place arrives
        [128 + 64, 0],  # all of B's update leaves, then A arrives
    ]


def test_a_boundary_hops_through_the_host():
    moves = moves_of(workload(two_shards(1)), devices(2, link=BYTE_A_SECOND))
    assert [hop[0] for hop in moves.hop_s] == [0, 128, 128]  # x1 for L1, g0 for B0


def test_a_boundary_has_nowhere_to_go_from_a_single_device():
    moves = moves_of(workload(two_shards(1)), devices(1, link=BYTE_A_SECOND))
    assert [hop[0] for hop in moves.hop_s] == [0, 64, 64]  # stored at least; it never hops, though


def test_a_mini_batch_is_fetched_after_the_last_forward():
    moves = moves_of(workload(two_shards(fetch_s=2.0)), devices(1))
    assert [moves.fetched_after(j) for j in range(6)] == [None, None, None, 1, None, None]


def test_an_unfused_job_fetches_after_its_last_forward():
    moves = moves_of(workload(two_shards(fused=False)), devices(1))  # F0 F1 B1 B0
    assert moves.fetched_after(4) == 1


def test_the_first_unit_waits_for_arrival_and_for_the_slower_of_fetch_and_load():
    moves = moves_of(workload(two_shards(arrival_s=5.0, fetch_s=100.0)), devices(1, link=BYTE_A_SECOND))
    assert moves.begin_s[0] == [105.0]
    assert moves.begin_s[1] == [5.0]


def test_depth_is_how_far_the_mechanism_looks_ahead():
    jobs = workload(heavy("A"))
    assert moves_of(jobs, devices(1)).depth == 2
    assert moves_of(jobs, devices(1), prefetch=False).depth == 1
    limited = Cluster((Device(BLOCK),), host_memory_bytes=1 << 20)
    assert moves_of(jobs, limited).depth is None


def test_blocks_of_a_unit_are_its_state_and_what_it_reads_and_writes():
    moves = moves_of(workload(two_shards(1)), devices(1, blocks=9))
    assert (moves.room, moves.state_blocks) == ([9], [2, 2, 2])
    assert moves.unit_blocks == [2 + 1, 2 + 1 + 1, 2 + 1]  # with x1; x1 and g0; g0


def test_all_times_are_there_to_be_measured():
    assert moves_of(workload(two_shards(fetch_s=2.0)), devices(1, link=BYTE_A_SECOND)).seconds == [0.0, 2.0, 64, 128]
