"""FairScale's spilling: slices come and go one after another, or, with prefetch, beside the computing."""

from __future__ import annotations

import pytest

from hydrasim import Cluster, Device, Link, Shard, TrainingJob
from hydrasim.errors import SystemRefused
from hydrasim.systems import make_system, simulate_system
from hydrasim.systems.spilling import Spilling
from tests.worlds import times, workload

LINK = Link(64.0)


def stack(layers: int = 2, minibatches: int = 1, **fields: object) -> TrainingJob:
    """Return a job of equal layers of 64 bytes: a forward takes 1, a backward 2, a load or a store 1."""
    shard = Shard(1.0, 2.0, parameter_bytes=64, optimizer_bytes=128, output_bytes=0)
    return TrainingJob("A", (shard,) * layers, minibatches, fused=False, **fields)


def one_device(memory_bytes: int = 1 << 20, **fields: object) -> Cluster:
    return Cluster((Device(memory_bytes, h2d=LINK, d2h=LINK),), **fields)


def test_a_slice_is_loaded_used_and_stored_before_the_next():
    # h2d      L0 .  .  L1 .  .  L1 .  .  .  .  .  L0 .  .  .  .  .
    # compute  .  F0 .  .  F1 .  .  F1 B1 B1 .  .  .  F0 B0 B0 .  .     a backward runs the forward again
    # d2h      .  .  S0 .  .  S1 .  .  .  .  S1 S1 .  .  .  .  S0 S0    and stores gradients too
    timeline = simulate_system(workload(stack()), one_device(), Spilling(num_slices=2))
    assert times(timeline, "load") == [(0.0, 1.0), (3.0, 4.0), (6.0, 7.0), (12.0, 13.0)]
    assert times(timeline, "store") == [(2.0, 3.0), (5.0, 6.0), (10.0, 12.0), (16.0, 18.0)]
    assert [end_s - start_s for start_s, end_s in times(timeline, "compute")] == [1.0, 1.0, 1.0, 2.0, 1.0, 2.0]


def test_a_single_slice_comes_and_goes_whole():
    # h2d      L L . . . . L L . . . . . . . . . .
    # compute  . . F F . . . . F F B B B B . . . .
    # d2h      . . . . S S . . . . . . . . S S S S
    timeline = simulate_system(workload(stack()), one_device(), "spilling")
    assert times(timeline, "load") == [(0.0, 2.0), (6.0, 8.0)]
    assert times(timeline, "store") == [(4.0, 6.0), (14.0, 18.0)]


def test_prefetch_loads_the_next_slice_while_one_computes_where_two_have_room():
    # h2d      L0 L1 .  L1 L0 .  .  .  .  .  .  .  .  .
    # compute  .  F0 F1 .  F1 B1 B1 .  .  F0 B0 B0 .  .      the third load waits for the first store,
    # d2h      .  .  S0 S1 .  .  .  S1 S1 .  .  .  S0 S0      and gradients of slice 0 for those of slice 1 to leave
    timeline = simulate_system(workload(stack()), one_device(), Spilling(num_slices=2, prefetch=True))
    assert times(timeline, "load") == [(0.0, 1.0), (1.0, 2.0), (3.0, 4.0), (4.0, 5.0)]
    assert times(timeline, "compute", "A/F0#0")[1] == (9.0, 10.0)
    assert (timeline.makespan_s, timeline.header["peak_bytes"]) == (14.0, [3 * 64])


def test_the_next_mini_batch_waits_for_the_step_on_the_host():
    # parameters, gradients and optimizer state: 3 x 64 + 2 x 128 bytes a layer at 64 bytes a second
    timeline = simulate_system(workload(stack(minibatches=2)), one_device(host_bytes_per_s=64.0), "spilling")
    (first, _) = times(timeline, "update")
    assert first[1] - first[0] == 2 * (3 + 4)
    assert times(timeline, "load")[2][0] == first[1]


def test_a_boundary_goes_with_its_slice_and_comes_back_for_the_backward():
    shard = Shard(1.0, 2.0, parameter_bytes=64, output_bytes=16)
    job = TrainingJob("A", (shard,) * 2, 1, fused=False, input_bytes=8)
    timeline = simulate_system(workload(job), one_device(), Spilling(num_slices=2))
    assert [span.nbytes for span in timeline.spans if span.kind == "load"] == [8, 64, 64, 64 + 16, 64 + 8]
    assert [span.nbytes for span in timeline.spans if span.kind == "store"] == [64 + 8, 64 + 16, 128, 128]


def test_slices_are_the_fewest_that_divide_the_layers_and_fit():
    # 2 x 64 bytes of parameters and gradients a layer
    for memory_bytes, num_layers in ((6 * 128, [6]), (6 * 128 - 1, [3, 3]), (3 * 128 - 1, [2, 2, 2]), (128, [1] * 6)):
        cluster = one_device(memory_bytes)
        slices = Spilling().slices(stack(6), cluster, 0)
        assert [len(layers) for layers in slices] == num_layers
        assert Spilling().memory_bytes(stack(6), cluster, (0,)) == [128 * num_layers[0]]
    assert Spilling(prefetch=True).memory_bytes(stack(6), one_device(192), (0,)) == [128 + 64]
    boundaries = TrainingJob("A", (Shard(1.0, 2.0, output_bytes=16),) * 4, 1)
    assert Spilling(4, prefetch=True).memory_bytes(boundaries, one_device(), (0,)) == [16 + 16]
    with pytest.raises(SystemRefused, match="spilling on 1 devices needs 128 bytes of device 0"):
        simulate_system(workload(stack(6)), one_device(127), "spilling")


def test_host_memory_holds_state_gradients_and_boundaries():
    shard = Shard(1.0, 2.0, parameter_bytes=64, optimizer_bytes=128, output_bytes=16)
    job = TrainingJob("A", (shard,) * 4, 1, input_bytes=8)
    assert Spilling(num_slices=2).host_bytes(job, one_device(), (0,)) == 4 * 256 + 8 + 16


def test_every_device_trains_a_job():
    jobs = workload(*(TrainingJob(name, (Shard(1.0, 2.0),), 1) for name in "AB"))
    assert simulate_system(jobs, Cluster.of(2, Device(64)), "spilling").makespan_s == 4.0
    with pytest.raises(SystemRefused, match="trains a job on one device, not on 2"):
        Spilling().memory_bytes(stack(), Cluster.of(2, Device(64)), (0, 1))


def test_its_options_are_read_from_text():
    assert make_system("spilling", {"num_slices": "3", "prefetch": "yes"}) == Spilling(3, True)
    with pytest.raises(SystemRefused, match="num_slices is 0; it must be at least 1"):
        make_system("spilling", {"num_slices": "0"})
