"""GPipe's bubble, order, memory and options."""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from hydrasim import Link
from hydrasim.errors import SystemRefused
from hydrasim.systems import make_system, simulate_system
from hydrasim.systems.gpipe import GPipe
from tests.hydrasim.systems.pipelines import flow_shop_s, most_alive, one, peers, stack
from tests.worlds import spans, times, units

SIZES = [(stages, count) for stages in (1, 2, 3, 5, 8) for count in (1, 2, 3, 4, 8, 16)]


@pytest.mark.parametrize(("stages", "count"), SIZES)
def test_the_bubble_of_equal_stages_is_the_papers(stages: int, count: int):
    timeline = simulate_system(
        one(stack([1.0] * stages)), peers(stages), GPipe(count, recompute="never"), effects="theory"
    )
    assert timeline.makespan_s == pytest.approx((count + stages - 1) / count * 3.0, abs=1e-9)
    assert 1 - timeline.utilization() == pytest.approx((stages - 1) / (count + stages - 1), abs=1e-9)


@pytest.mark.parametrize("send_s", [0.0, 0.25, 4.0])
@pytest.mark.parametrize("seed", range(10))
def test_unequal_stages_and_sends_go_as_a_flow_shop(seed: int, send_s: float):
    rng = Random(seed)
    forward_s = [rng.randint(1, 16) / 2 for _ in range(rng.randint(1, 6))]
    count = rng.choice((1, 2, 4, 8))
    job = stack(forward_s, output_bytes=64 * count)  # 64 a micro-batch
    cluster = peers(len(forward_s), Link(64 / send_s) if send_s else Link())
    timeline = simulate_system(one(job), cluster, GPipe(count, recompute="never"), effects="contention")
    expected_s = flow_shop_s(forward_s, [2 * seconds for seconds in forward_s], send_s, count)
    assert timeline.makespan_s == pytest.approx(expected_s, abs=1e-9)


def test_all_go_forward_and_then_back_last_one_first():
    # device 1  .  F0 F1 B1 B1 B0 B0 .  .          forwards take 1, backwards 2
    # device 0  F0 F1 .  .  .  B1 B1 B0 B0
    timeline = simulate_system(one(stack([2.0, 2.0])), peers(2), GPipe(2, recompute="never"))
    assert units(timeline, 0) == ["A/F0#0", "A/F0#1", "A/B0#1", "A/B0#0"]
    assert units(timeline, 1) == ["A/F1#0", "A/F1#1", "A/B1#1", "A/B1#0"]
    assert times(timeline, "compute", "A/B1#1") == [(3.0, 5.0)]
    assert times(timeline, "compute", "A/B0#0") == [(7.0, 9.0)]


def test_micro_batches_count_over_the_job_and_mini_batches_flush():
    timeline = simulate_system(one(stack([2.0, 2.0], minibatches=2)), peers(2), GPipe(2, recompute="never"))
    assert units(timeline, 0)[4:] == ["A/F0#2", "A/F0#3", "A/B0#3", "A/B0#2"]
    assert times(timeline, "compute", "A/F0#2") == [(9.0, 10.0)]
    assert timeline.makespan_s == 18.0


def test_forwards_run_again_while_the_device_waits_for_the_gradient():
    # device 1  .  F0 F1 B1 B1 F0 B0 B0 .  .       but the last one, which goes back at once
    # device 0  F0 F1 .  .  .  B1 B1 F0 B0 B0
    timeline = simulate_system(one(stack([2.0, 2.0])), peers(2), GPipe(2))
    assert times(timeline, "compute", "A/F1#0") == [(1.0, 2.0), (5.0, 6.0)]
    assert times(timeline, "compute", "A/F0#0") == [(0.0, 1.0), (7.0, 8.0)]
    assert timeline.makespan_s == 10.0
    # Of all: device 0 is through with its own before the gradient comes, at 6.
    timeline = simulate_system(one(stack([2.0, 2.0])), peers(2), GPipe(2, recompute="always"))
    assert times(timeline, "compute", "A/F0#1") == [(1.0, 2.0), (2.0, 3.0)]
    assert times(timeline, "compute", "A/B0#1") == [(6.0, 8.0)]
    assert timeline.makespan_s == 11.0


def test_a_pass_goes_by_the_first_shard_of_its_stage():
    timeline = simulate_system(one(stack([1.0] * 4)), peers(2), GPipe(1))
    assert units(timeline) == ["A/F0#0", "A/F2#0", "A/B2#0", "A/B0#0"]


def test_each_pass_pays_the_overhead():
    timeline = simulate_system(one(stack([2.0])), peers(1), GPipe(4, "never", microbatch_overhead_s=0.5))
    assert timeline.makespan_s == 2.0 + 4.0 + 8 * 0.5


def test_boundaries_and_inputs_go_in_parts():
    job = replace(stack([1.0, 1.0], output_bytes=10), input_bytes=6, target_bytes=3)
    timeline = simulate_system(one(job), peers(2), GPipe(4, "never"))
    assert [(s.device, s.peer, s.nbytes) for s in spans(timeline, "send")] == [(0, 1, 3)] * 4 + [(1, 0, 3)] * 4
    assert sorted((s.device, s.nbytes) for s in spans(timeline, "load")) == [(0, 2)] * 4 + [(1, 3)]


@pytest.mark.parametrize(
    ("recompute", "activations"),
    [
        ("never", [8 + 4 * (10 + 10), 4 * (10 + 10)]),  # what is loaded, and of each of two shards
        ("always", [4 * 2 + (10 + 10)] * 2),  # inputs of the stage, and all of one
        ("except_last", [4 * 2 + (10 + 10)] * 2),
    ],
)
def test_memory_holds_all_micro_batches_whole_or_as_inputs(recompute: str, activations: list[int]):
    sizes = {"parameter_bytes": 100, "optimizer_bytes": 50, "output_bytes": 8, "activation_bytes": 40}
    job = replace(stack([1.0] * 4, **sizes, working_bytes=100 + 40 + 20), input_bytes=8)
    expected = [2 * (100 + 50 + 100) + nbytes + 20 // 4 for nbytes in activations]
    assert GPipe(4, recompute).memory_bytes(job, peers(2), (0, 1)) == expected


def test_it_refuses_what_does_not_fit():
    job = stack([1.0] * 4, parameter_bytes=100)
    assert simulate_system(one(job), peers(2, memory_bytes=400), "gpipe").header["peak_bytes"] == [400, 400]
    with pytest.raises(SystemRefused, match=r"gpipe on 2 devices needs 400 bytes of device 0 for 'A'; it has 399"):
        simulate_system(one(job), peers(2, memory_bytes=399), "gpipe")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"microbatches": "0"}, "gpipe: microbatches is 0; it must be from 1 to 1,024"),
        ({"recompute": "some"}, "gpipe: recompute is 'some'; it is one of always, except_last, never"),
        ({"microbatch_overhead_s": "nan"}, "gpipe: microbatch_overhead_s is nan"),
        ({"microbatch_overhead_s": "1e308"}, "microbatch_overhead_s is 1e.308; it must be from 0 to 1e.12"),
        ({"microbatch_overhead_s": "-1"}, "gpipe: microbatch_overhead_s is -1.0"),
    ],
)
def test_options_that_will_not_do_are_refused(options: dict[str, str], message: str):
    with pytest.raises(SystemRefused, match=message):
        make_system("gpipe", options)


def test_as_many_micro_batches_as_stages_by_default():
    timeline = simulate_system(one(stack([1.0] * 3)), peers(4), GPipe(recompute="never"))
    assert most_alive(timeline, 0) == 3
    assert len(units(timeline)) == 2 * 3 * 3
