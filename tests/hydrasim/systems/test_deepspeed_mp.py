"""Model parallelism: one device computes at a time, and layers stay."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hydrasim import Link
from hydrasim.errors import SystemRefused
from hydrasim.systems import simulate_system
from hydrasim.systems.deepspeed_mp import DeepspeedMP
from tests.hydrasim.systems.pipelines import one, peers, stack
from tests.worlds import spans, times, units


def test_one_device_computes_at_a_time():
    timeline = simulate_system(one(stack([1.0] * 4, minibatches=3)), peers(4), "deepspeed-mp")
    assert timeline.makespan_s == 3 * 4 * (1.0 + 2.0)
    assert timeline.utilization() == 0.25
    assert [timeline.utilization(device) for device in range(4)] == [0.25] * 4


def test_activations_hop_there_and_gradients_back():
    # compute 1  .  .  F1 B1 B1 .  .  .        sends take 1
    # compute 0  F0 .  .  .  .  .  B0 B0
    # peer       .  0> .  .  .  1> .  .
    timeline = simulate_system(one(stack([1.0, 1.0], output_bytes=64)), peers(2, Link(64)), "deepspeed-mp")
    assert times(timeline, "send") == [(1.0, 2.0), (5.0, 6.0)]
    assert [(span.device, span.peer) for span in spans(timeline, "send")] == [(0, 1), (1, 0)]
    assert times(timeline, "compute", "A/B0#0") == [(6.0, 8.0)]


def test_the_loader_works_ahead():
    job = replace(stack([1.0], minibatches=3), fetch_s=1.0)
    timeline = simulate_system(one(job), peers(1), "deepspeed-mp")
    assert timeline.makespan_s == 1.0 + 3 * 3.0
    assert times(timeline, "fetch")[:2] == [(0.0, 1.0), (1.0, 2.0)]


def test_inputs_go_to_the_first_device_and_targets_to_the_last():
    job = replace(stack([1.0, 1.0]), input_bytes=8, target_bytes=4)
    timeline = simulate_system(one(job), peers(2), "deepspeed-mp")
    assert [(span.device, span.nbytes) for span in spans(timeline, "load")] == [(0, 8), (1, 4)]


def test_recomputing_costs_a_forward_and_keeps_only_inputs():
    sizes = {"parameter_bytes": 100, "optimizer_bytes": 50, "output_bytes": 8, "activation_bytes": 40}
    job = replace(stack([1.0] * 4, **sizes, working_bytes=100 + 40 + 20), input_bytes=6)
    state = 2 * (100 + 50 + 100)
    keeps, again = DeepspeedMP(), DeepspeedMP(recompute=True)
    assert keeps.memory_bytes(job, peers(2), (0, 1)) == [state + 6 + 40 + 40 + 20, state + 40 + 40 + 20]
    assert again.memory_bytes(job, peers(2), (0, 1)) == [state + 6 + 8 + 40 + 20, state + 8 + 8 + 40 + 20]
    assert simulate_system(one(job), peers(2), again).makespan_s == 4 * (1.0 + 3.0)


def test_memory_holds_what_is_loaded():
    job = replace(stack([1.0] * 2), input_bytes=8, target_bytes=4)
    assert DeepspeedMP().memory_bytes(job, peers(2), (0, 1)) == [8, 4]
    assert DeepspeedMP().memory_bytes(job, peers(1), (0,)) == [12]


def test_jobs_run_one_after_the_other():
    jobs = replace(one(stack([1.0])), jobs=(stack([1.0], name="A"), stack([1.0], name="B")))
    assert units(simulate_system(jobs, peers(2), "deepspeed-mp")) == ["A/F0#0", "A/B0#0", "B/F0#0", "B/B0#0"]


def test_it_refuses_what_all_devices_together_cannot_hold():
    with pytest.raises(SystemRefused, match="deepspeed-mp on 2 devices needs 32 bytes of device 0 for 'A'; it has 31"):
        simulate_system(one(stack([1.0, 1.0], parameter_bytes=16)), peers(2, memory_bytes=31), "deepspeed-mp")
