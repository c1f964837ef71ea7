"""FSDP with CPU offload against a recurrence over its stages, and what it says of memory."""

from __future__ import annotations

import pytest

from hydrasim.errors import SystemRefused
from hydrasim.systems import make_system, simulate_system
from hydrasim.systems.fsdp_offload import FSDPOffload
from tests.hydrasim.systems.offloading import LAYERS, equal_devices, minibatch_s, present_bytes, unequal
from tests.worlds import spans, workload

# uses     F0 F1 F2 F3 B3 B2 B1 B0     the next layer comes while one computes, in the backward too; layer 3 stays
# numbers   0  1  2  3  4  5  6  7
ONE_AHEAD = [(0, 0), (1, 0), (2, 1), (3, 2), (5, 4), (6, 5), (7, 6)]
NONE_AHEAD = [(0, 0), (1, 1), (2, 2), (3, 3), (5, 5), (6, 6), (7, 7)]


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("bus", [False, True])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("compute", [0.0, 1.0, 16.0, 64.0])
@pytest.mark.parametrize(("prefetch_layers", "gathers"), [(1, ONE_AHEAD), (0, NONE_AHEAD)])
def test_a_minibatch_takes_what_the_recurrence_says(count, bus, recompute, compute, prefetch_layers, gathers):
    system = FSDPOffload(prefetch_layers=prefetch_layers, recompute=recompute)
    timeline = simulate_system(workload(unequal(compute)), equal_devices(count, bus=bus), system)
    expected = minibatch_s(gathers, count, compute=compute, recompute=recompute, bus=bus)
    assert timeline.makespan_s == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("compute", [0.0, 1.0, 16.0, 64.0])
def test_a_single_rank_loads_on_the_stream_that_computes(compute: float):
    timeline = simulate_system(workload(unequal(compute)), equal_devices(1), FSDPOffload())
    assert timeline.makespan_s == pytest.approx(minibatch_s(NONE_AHEAD, 1, compute=compute), abs=1e-9)
    assert not timeline.peer_bytes


@pytest.mark.parametrize("count", [1, 2, 4])
def test_what_moves_in_a_minibatch_is_what_the_formula_says(count: int):
    timeline = simulate_system(workload(unequal(minibatches=2)), equal_devices(count), FSDPOffload())
    model = sum(LAYERS)
    assert timeline.moved_bytes == 2 * (model + model - LAYERS[-1] + model)
    assert timeline.peer_bytes == 2 * (count - 1) * (model + model - LAYERS[-1] + model)
    assert len(spans(timeline, "update")) == 2 * count


@pytest.mark.parametrize("prefetch_layers", [0, 1, 2, 4])
def test_never_more_of_the_layers_is_on_a_device_than_it_says(prefetch_layers: int):
    system = FSDPOffload(prefetch_layers=prefetch_layers)
    timeline = simulate_system(workload(unequal(16.0)), equal_devices(2), system)
    _, stated = system.gathering(unequal(), 2)
    assert max(LAYERS) <= present_bytes(timeline, 0) <= stated


def test_it_needs_two_layers_and_their_gradients():
    need = 1536 + 1536 + (4 * 64 + 128) // 2
    assert FSDPOffload().memory_bytes(unequal(), equal_devices(2), (0, 1)) == [need, need]
    simulate_system(workload(unequal()), equal_devices(2, memory_bytes=need), FSDPOffload())
    with pytest.raises(SystemRefused, match="fsdp-offload on 2 devices needs 3,264 bytes"):
        simulate_system(workload(unequal()), equal_devices(2, memory_bytes=need - 1), FSDPOffload())


def test_without_recomputation_activations_stay():
    # nothing is stated of what forwards leave, so each is taken to leave its peak: 4 x 128 in place of 4 x 64
    kept = FSDPOffload(recompute=False).memory_bytes(unequal(), equal_devices(2), (0, 1))[0]
    assert kept == 1536 + 1536 + (4 * 128 + 128) // 2


def test_its_options_are_read_from_text():
    assert make_system("fsdp-offload", {"prefetch_layers": "2"}) == FSDPOffload(prefetch_layers=2)
    with pytest.raises(SystemRefused, match="prefetch_layers is -1; it must be at least 0"):
        make_system("fsdp-offload", {"prefetch_layers": "-1"})


@pytest.mark.parametrize("count", [1, 2, 4])
def test_in_mixed_precision_ranks_exchange_half_but_cast_themselves(count: int):
    jobs, devices = workload(unequal(minibatches=2)), equal_devices(count)
    full, half = (simulate_system(jobs, devices, FSDPOffload(mixed_precision=flag)) for flag in (False, True))
    assert half.moved_bytes == full.moved_bytes
    assert 2 * half.peer_bytes == full.peer_bytes
    assert {span.nbytes for span in spans(half, "update")} == {span.nbytes for span in spans(full, "update")}
