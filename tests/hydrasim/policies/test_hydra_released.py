"""Sharded-LRTF as the public code computes it."""

from __future__ import annotations

from hydrasim import simulate
from hydrasim.policies.hydra_released import HydraReleased
from hydrasim.policies.sharded_lrtf import ShardedLRTF
from tests.worlds import devices, job, units, workload


def test_it_is_sharded_lrtf_with_both_switches():
    released = HydraReleased()
    assert isinstance(released, ShardedLRTF)
    assert (released.within_minibatch, released.online_minibatch_s) == (False, True)


def test_it_stays_with_a_mini_batch_that_sharded_lrtf_would_leave():
    jobs = workload(job("A", shards=2), job("B", seconds=1.75))
    assert units(simulate(jobs, devices(1), "hydra-released", effects="theory"))[1] == "A/L1#0"
    assert units(simulate(jobs, devices(1), "sharded-lrtf", effects="theory"))[1] == "B/L0#0"
