"""FSDP against a recurrence over its stages, a closed form, and what it says of memory."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hydrasim import Link
from hydrasim.errors import SystemRefused
from hydrasim.systems import make_system, simulate_system
from hydrasim.systems.fsdp import FSDP
from hydrasim.systems.fsdp_offload import FSDPOffload
from tests.hydrasim.systems.offloading import (
    BACKWARDS,
    FORWARDS,
    LAYERS,
    LOAD,
    PEER,
    STORE,
    equal_devices,
    minibatch_s,
    unequal,
)
from tests.worlds import spans, workload

# uses     F0 F1 F2 F3 B3 B2 B1 B0     the next layer comes while one computes, in the backward too; layer 3 stays
# numbers   0  1  2  3  4  5  6  7
ONE_AHEAD = [(0, 0), (1, 0), (2, 1), (3, 2), (5, 4), (6, 5), (7, 6)]
NONE_AHEAD = [(0, 0), (1, 1), (2, 2), (3, 3), (5, 5), (6, 6), (7, 7)]
STATE_BYTES = 3 * sum(LAYERS)


def moved_s(count: int) -> float:
    """Return what a job's pieces take from host memory when it begins, and back when it ends."""
    return STATE_BYTES / count / LOAD + STATE_BYTES / count / STORE


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("compute", [0.0, 1.0, 16.0, 64.0])
@pytest.mark.parametrize(("prefetch_layers", "gathers"), [(1, ONE_AHEAD), (0, NONE_AHEAD)])
def test_a_minibatch_takes_what_the_recurrence_says(count, recompute, compute, prefetch_layers, gathers):
    system = FSDP(prefetch_layers=prefetch_layers, recompute=recompute)
    timeline = simulate_system(workload(unequal(compute, minibatches=2)), equal_devices(count), system)
    each_s = minibatch_s(gathers, count, compute=compute, recompute=recompute, offload=False)
    assert timeline.makespan_s == pytest.approx(2 * each_s + moved_s(count), abs=1e-9)


def test_slow_computing_hides_all_but_the_first_gather_and_the_last_scatter():
    (count, compute), layer_s = (2, 64.0), LAYERS[0] / 2 / PEER
    timeline = simulate_system(workload(unequal(compute)), equal_devices(count), FSDP())
    computed_s = compute / count * (2 * sum(FORWARDS) + sum(BACKWARDS))
    assert timeline.makespan_s == pytest.approx(layer_s + computed_s + layer_s + moved_s(count))


def test_a_single_rank_only_computes():
    timeline = simulate_system(workload(unequal(minibatches=2)), equal_devices(1), FSDP(recompute=False))
    assert timeline.makespan_s == 2 * (sum(FORWARDS) + sum(BACKWARDS)) + moved_s(1)
    assert not spans(timeline, "gather")


@pytest.mark.parametrize("count", [2, 4])
def test_what_moves_is_state_once_and_layers_between_ranks(count: int):
    timeline = simulate_system(workload(unequal(minibatches=2)), equal_devices(count), FSDP())
    model = sum(LAYERS)
    assert timeline.moved_bytes == 2 * STATE_BYTES
    assert timeline.peer_bytes == 2 * (count - 1) * (model + model - LAYERS[-1] + model)
    assert not spans(timeline, "update")


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_rank_holds_its_piece_of_all_beside_what_offload_holds(count: int):
    # of parameters, their gradients and twice the parameters for the optimizer
    kept, devices = 4 * sum(LAYERS) // count, tuple(range(count))
    offloaded = FSDPOffload().memory_bytes(unequal(), equal_devices(count), devices)[0]
    assert FSDP().memory_bytes(unequal(), equal_devices(count), devices) == [kept + offloaded] * count
    assert FSDP().host_bytes(unequal(), equal_devices(count), devices) == STATE_BYTES


def test_it_fits_exactly():
    need = 2 * sum(LAYERS) + 1536 + 1536 + (4 * 64 + 128) // 2
    simulate_system(workload(unequal()), equal_devices(2, memory_bytes=need), FSDP())
    with pytest.raises(SystemRefused, match="fsdp on 2 devices needs 8,384 bytes of device 0 for 'A'; it has 8,383"):
        simulate_system(workload(unequal()), equal_devices(2, memory_bytes=need - 1), FSDP())


def test_its_options_are_read_from_text():
    assert make_system("fsdp", {"prefetch_layers": "2"}) == FSDP(prefetch_layers=2)
    with pytest.raises(SystemRefused, match="fsdp: prefetch_layers is -1; it must be at least 0"):
        make_system("fsdp", {"prefetch_layers": "-1"})


@pytest.mark.parametrize("compute", [0.0, 1.0, 16.0])
def test_in_mixed_precision_ranks_exchange_half_and_copy_all(compute: float):
    half, whole = FSDP(mixed_precision=True), equal_devices(2)
    twice = replace(whole, devices=tuple(replace(device, peer=Link(2 * PEER)) for device in whole.devices))
    jobs = workload(unequal(compute, minibatches=2))
    timeline = simulate_system(jobs, whole, half)
    assert timeline.makespan_s == simulate_system(jobs, twice, FSDP()).makespan_s
    assert timeline.peer_bytes * 2 == simulate_system(jobs, whole, FSDP()).peer_bytes
    assert timeline.moved_bytes == 2 * STATE_BYTES


def test_in_mixed_precision_layers_and_their_gradients_weigh_half():
    (full,), (half,) = (
        system.memory_bytes(unequal(), equal_devices(1), (0,)) for system in (FSDP(), FSDP(mixed_precision=True))
    )
    (gathered,), gradients = ([FSDP().gathering(unequal(), 1)[1]], 1536)
    assert full - half == (gathered + gradients) // 2
