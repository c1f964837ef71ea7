"""ZeRO-3 offload against a recurrence over its stages, flow-shop formulas, and what it says of memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hydrasim.errors import SystemRefused
from hydrasim.systems import make_system, simulate_system
from hydrasim.systems.zero3_offload import Zero3Offload
from tests.hydrasim.systems.offloading import (
    FORWARDS,
    LAYERS,
    LOAD,
    PEER,
    equal_devices,
    minibatch_s,
    present_bytes,
    unequal,
)
from tests.worlds import spans, times, workload

# uses     F0 F1 F2 F3 B3 B2 B1 B0     one layer ahead; layer 3 stays for its backward, and so while it goes
# numbers   0  1  2  3  4  5  6  7     forward layer 2 may already come back for its backward, number 5
ONE_AHEAD = [(0, 0), (1, 0), (2, 1), (3, 2), (5, 3), (6, 5), (7, 6)]
NONE_AHEAD = [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 7)]


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("bus", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("compute", [0.0, 1.0, 16.0, 64.0])
@pytest.mark.parametrize(("prefetch_bytes", "gathers"), [(1, ONE_AHEAD), (0, NONE_AHEAD)])
def test_a_minibatch_takes_what_the_recurrence_says(count, bus, recompute, compute, prefetch_bytes, gathers):
    system = Zero3Offload(prefetch_bytes=prefetch_bytes, reuse_bytes=0, recompute=recompute)
    timeline = simulate_system(workload(unequal(compute)), equal_devices(count, bus=bus), system)
    expected = minibatch_s(gathers, count, compute=compute, recompute=recompute, bus=bus)
    assert timeline.makespan_s == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("compute", [1.0, 8.0, 64.0])
def test_with_room_for_all_the_forward_is_a_flow_shop_of_three_stages(count: int, compute: float):
    # A permutation flow shop ends after its longest path: loads up to i, gathers i to j, computes from j on.
    load = [p / count / LOAD for p in LAYERS]
    gather = [p * (count - 1) / count / PEER for p in LAYERS]
    forward = [f * compute / count for f in FORWARDS]
    longest = max(sum(load[: i + 1]) + sum(gather[i : j + 1]) + sum(forward[j:]) for i in range(4) for j in range(i, 4))
    timeline = simulate_system(workload(unequal(compute)), equal_devices(count), Zero3Offload())
    assert (
        times(timeline, "compute", "A/F3#0") == [(pytest.approx(longest - forward[3]), pytest.approx(longest))] * count
    )
    assert all(span.end_s <= longest for span in spans(timeline, "load"))  # all layers stay: none is loaded again


@pytest.mark.parametrize("count", [1, 4])
def test_minibatches_follow_each_other_and_each_steps_once_a_rank(count: int):
    one = simulate_system(workload(unequal()), equal_devices(count), Zero3Offload()).makespan_s
    timeline = simulate_system(workload(unequal(minibatches=3)), equal_devices(count), Zero3Offload())
    assert timeline.makespan_s == pytest.approx(3 * one)
    for device in range(count):
        assert [span.unit for span in spans(timeline, "update", device=device)] == ["A/U0#0", "A/U0#1", "A/U0#2"]
    for number in (0, 1):
        updated = max(span.end_s for span in spans(timeline, "update", f"A/U0#{number}"))
        later = [span for span in timeline.spans if span.unit.endswith(f"#{number + 1}") and span.kind != "fetch"]
        assert min(span.start_s for span in later) == updated


def test_a_rank_computes_its_part_of_the_chain_in_order():
    timeline = simulate_system(workload(unequal()), equal_devices(2), Zero3Offload(recompute=False))
    chain = [f"A/{unit}#0" for unit in ("F0", "F1", "F2", "F3", "B3", "B2", "B1", "B0")]
    for device in (0, 1):
        assert [span.unit for span in spans(timeline, "compute", device=device)] == chain
    assert sum(span.duration_s for span in spans(timeline, "compute", "A/B0#0")) == 32.0


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize(("reuse_bytes", "again"), [(0, 1536), (1 << 30, 0)])
def test_what_moves_in_a_minibatch_is_what_the_formula_says(count: int, reuse_bytes: int, again: int):
    system = Zero3Offload(prefetch_bytes=1, reuse_bytes=reuse_bytes)
    timeline = simulate_system(workload(unequal(minibatches=2)), equal_devices(count), system)
    model = sum(LAYERS)
    assert timeline.moved_bytes == 2 * (model + again + model)  # pieces in, again, gradients out
    assert timeline.peer_bytes == 2 * (count - 1) * (model + again + model)
    assert sum(span.nbytes for span in spans(timeline, "update")) == 2 * 7 * model


def gathers(**options: int) -> list[tuple[int, ...]]:
    return [use.gathers for use in Zero3Offload(**options).gathering(unequal(), 2)[0]]


def test_nothing_is_prefetched_while_too_much_is_live():
    assert gathers(max_live_bytes=1, reuse_bytes=0) == gathers(prefetch_bytes=0, reuse_bytes=0)
    assert gathers(max_live_bytes=1000, reuse_bytes=0)[0] == (0, 1)  # 256 bytes, and 1024 with layer 1


def test_a_layer_stays_whose_reuse_is_near():
    # between forward and backward of layer 2 (of 1), layer 3 (3 and 2) is passed twice, and thrice with recomputation
    assert gathers(prefetch_bytes=0, reuse_bytes=3073)[4:] == [(), (), (1,), (0,)]
    assert gathers(prefetch_bytes=0, reuse_bytes=3072)[4:] == [(), (2,), (1,), (0,)]
    assert gathers(prefetch_bytes=0, reuse_bytes=3073, recompute=False)[4:] == [(), (), (), (0,)]


@pytest.mark.parametrize("prefetch_bytes", [0, 1, 300, 800, 1 << 30])
@pytest.mark.parametrize("reuse_bytes", [0, 3000, 1 << 30])
@pytest.mark.parametrize("max_live_bytes", [1, 1500, 1 << 30])
@pytest.mark.parametrize("compute", [1.0, 64.0])
def test_never_more_of_the_layers_is_on_a_device_than_it_says(prefetch_bytes, reuse_bytes, max_live_bytes, compute):
    system = Zero3Offload(prefetch_bytes=prefetch_bytes, reuse_bytes=reuse_bytes, max_live_bytes=max_live_bytes)
    job = unequal(compute)
    timeline = simulate_system(workload(job), equal_devices(2), system)
    _, stated = system.gathering(job, 2)
    assert max(LAYERS) <= present_bytes(timeline, 0) <= stated <= sum(LAYERS)


def test_what_it_needs_of_devices_and_host():
    # Layers 2 and 3 at once, their gradients, 4 inputs of layers and a peak of 128 bytes, these last halved
    system, job = Zero3Offload(prefetch_bytes=1, reuse_bytes=0), unequal()
    assert system.memory_bytes(job, equal_devices(2), (0, 1)) == [1536 + 1536 + (4 * 64 + 128) // 2] * 2
    assert system.host_bytes(job, equal_devices(2), (0, 1)) == 4 * sum(LAYERS)


def test_it_says_what_it_needed_and_fits_exactly():
    system = Zero3Offload(prefetch_bytes=1, reuse_bytes=0)
    need, host = 1536 + 1536 + 192, 4 * sum(LAYERS)
    timeline = simulate_system(workload(unequal()), equal_devices(2, memory_bytes=need, host=host), system)
    assert timeline.header["peak_bytes"] == [need, need]
    with pytest.raises(SystemRefused, match=r"zero3-offload on 2 devices needs 3,264 bytes of device 0 for 'A'"):
        simulate_system(workload(unequal()), equal_devices(2, memory_bytes=need - 1), system)
    with pytest.raises(SystemRefused, match="needs 10,240 bytes of host memory for the state of all jobs"):
        simulate_system(workload(unequal()), equal_devices(2, host=host - 1), system)


def test_a_model_larger_than_the_device_trains():
    system = Zero3Offload(prefetch_bytes=0, reuse_bytes=0)
    job = unequal()
    need = system.memory_bytes(job, equal_devices(1), (0,))[0]
    assert need < 4 * sum(LAYERS)
    simulate_system(workload(job), equal_devices(1, memory_bytes=need), system)


def test_inputs_come_in_parts_before_the_layers():
    job = unequal(input_bytes=64, target_bytes=64)
    timeline = simulate_system(workload(job), equal_devices(2), Zero3Offload())
    assert [spans(timeline, "load", device=device)[0].nbytes for device in (0, 1)] == [64, 64]
    plain = simulate_system(workload(unequal()), equal_devices(2), Zero3Offload())
    assert timeline.makespan_s == plain.makespan_s + 64 / LOAD


def test_jobs_follow_each_other():
    one = simulate_system(workload(unequal()), equal_devices(2), Zero3Offload()).makespan_s
    jobs = workload(unequal(), replace(unequal(minibatches=2), name="B"))
    assert simulate_system(jobs, equal_devices(2), Zero3Offload()).makespan_s == pytest.approx(3 * one)


def test_its_options_are_read_from_text():
    system = make_system("zero3-offload", {"prefetch_bytes": "1", "recompute": "false"})
    assert system == Zero3Offload(prefetch_bytes=1, recompute=False)
    with pytest.raises(SystemRefused, match="reuse_bytes is -1; it must be at least 0"):
        make_system("zero3-offload", {"reuse_bytes": "-1"})


def test_the_window_opens_as_far_as_it_says():
    # Beside layer 0, layer 1 (768 bytes) fills a window of 600 bytes; one of 800 has room for layer 2 (512) to begin.
    def loaded_before_0_is_over(prefetch_bytes: int) -> list[int]:
        system = Zero3Offload(prefetch_bytes=prefetch_bytes, reuse_bytes=0)
        timeline = simulate_system(workload(unequal(64.0)), equal_devices(1), system)
        end_s = times(timeline, "compute", "A/F0#0")[0][1]
        return [span.nbytes for span in spans(timeline, "load") if span.start_s < end_s]

    assert loaded_before_0_is_over(0) == [256]
    assert loaded_before_0_is_over(600) == [256, 768]
    assert loaded_before_0_is_over(800) == [256, 768, 512]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_in_mixed_precision_all_that_moves_is_half_and_the_host_casts(count: int):
    jobs, devices = workload(unequal(minibatches=2)), equal_devices(count)
    full, half = (Zero3Offload(reuse_bytes=0, prefetch_bytes=0, mixed_precision=flag) for flag in (False, True))
    before, after = (simulate_system(jobs, devices, system) for system in (full, half))
    assert (2 * after.moved_bytes, 2 * after.peer_bytes) == (before.moved_bytes, before.peer_bytes)
    parameters = sum(LAYERS)
    written = [sum(span.nbytes for span in spans(timeline, "update")) for timeline in (before, after)]
    assert written == [2 * 7 * parameters, 2 * (7 * parameters + parameters // 2)]  # the half, written too
    kept = [system.host_bytes(unequal(), devices, tuple(range(count))) for system in (full, half)]
    assert kept == [4 * parameters, 4 * parameters + parameters // 2]
