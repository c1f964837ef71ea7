"""DDP's all-reduces under the backward, against closed forms."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hydrasim import Cluster
from hydrasim.errors import SystemRefused
from hydrasim.systems import make_system, simulate_system
from hydrasim.systems.ddp import DDP
from tests.hydrasim.systems.offloading import BACKWARDS, FORWARDS, LAYERS, LOAD, PEER, STORE, equal_devices, unequal
from tests.worlds import spans, times, workload

STATE_BYTES = 3 * sum(LAYERS)
MOVED_S = STATE_BYTES / LOAD + STATE_BYTES / STORE  # each rank loads all state first, and one stores it last


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("compute", [0.0, 1.0, 4.0, 64.0])
@pytest.mark.parametrize("recompute", [False, True])
def test_backwards_and_all_reduces_are_a_flow_shop_of_two_stages(count: int, compute: float, recompute: bool):
    back = [b + (f if recompute else 0.0) for f, b in zip(FORWARDS, BACKWARDS, strict=True)]
    backward = [b * compute / count for b in reversed(back)]
    reduce = [2 * p * (count - 1) / count / PEER for p in reversed(LAYERS)]
    forward_s = sum(FORWARDS) * compute / count
    longest = max(sum(backward[: i + 1]) + sum(reduce[i:]) for i in range(4))
    system = DDP(bucket_bytes=1, recompute=recompute)
    timeline = simulate_system(workload(unequal(compute, minibatches=3)), equal_devices(count), system)
    assert timeline.makespan_s == pytest.approx(3 * (forward_s + longest) + MOVED_S, abs=1e-9)


def test_a_bucket_waits_until_it_is_full():
    # compute  B3 B2 B1 B0      layer 3 has 1024 bytes and 2 has 512: together they fill the bucket of 1500;
    # peer     .. .. ++ .. ++   the rest, 768 and 256, goes when the backward is over
    timeline = simulate_system(workload(unequal()), equal_devices(2), DDP(bucket_bytes=1500))
    reduced = spans(timeline, "gather", device=0)
    assert [span.nbytes for span in reduced] == [1536, 1024]
    ends = [times(timeline, "compute", f"A/B{shard}#0")[0][1] for shard in (2, 0)]
    assert [span.start_s for span in reduced] == [ends[0], max(ends[1], reduced[0].end_s)]


def test_a_bucket_for_all_leaves_nothing_to_overlap():
    timeline = simulate_system(workload(unequal()), equal_devices(2), DDP())
    compute_s = (sum(FORWARDS) + sum(BACKWARDS)) / 2
    assert timeline.makespan_s == pytest.approx(compute_s + sum(LAYERS) / PEER + MOVED_S)


def test_what_is_exchanged_is_what_the_formula_says():
    timeline = simulate_system(workload(unequal(minibatches=2)), equal_devices(4), DDP(bucket_bytes=1))
    assert timeline.peer_bytes == 2 * 4 * 2 * sum(LAYERS) * 3 // 4
    assert timeline.moved_bytes == (4 + 1) * STATE_BYTES


def test_a_single_rank_exchanges_nothing():
    timeline = simulate_system(workload(unequal(minibatches=2)), equal_devices(1), DDP())
    assert timeline.makespan_s == 2 * (sum(FORWARDS) + sum(BACKWARDS)) + MOVED_S
    assert not spans(timeline, "gather")


def test_the_slowest_rank_sets_the_pace():
    (device,) = equal_devices(1).devices
    cluster = Cluster((device, replace(device, speed=0.5)))
    timeline = simulate_system(workload(unequal()), cluster, DDP())
    assert timeline.makespan_s == pytest.approx(sum(FORWARDS) + sum(BACKWARDS) + sum(LAYERS) / PEER + MOVED_S)


def test_a_rank_holds_the_whole_model():
    # parameters, gradients, buckets and twice the parameters for the optimizer; activations by half
    left = (4 * 128 + 128) // 2
    need = 5 * sum(LAYERS) + left
    assert DDP().memory_bytes(unequal(), equal_devices(2), (0, 1)) == [need, need]
    assert DDP(bucket_view=True).memory_bytes(unequal(), equal_devices(2), (0, 1))[0] == need - sum(LAYERS)
    assert DDP().host_bytes(unequal(), equal_devices(2), (0, 1)) == 3 * sum(LAYERS)
    simulate_system(workload(unequal()), equal_devices(2, memory_bytes=need), DDP())
    with pytest.raises(SystemRefused, match="ddp on 2 devices needs 13,120 bytes of device 0 for 'A'"):
        simulate_system(workload(unequal()), equal_devices(2, memory_bytes=need - 1), DDP())


def test_its_options_are_read_from_text():
    assert make_system("ddp", {"bucket_view": "yes"}) == DDP(bucket_view=True)
    with pytest.raises(SystemRefused, match="bucket_bytes is 0; it must be at least 1"):
        make_system("ddp", {"bucket_bytes": "0"})
