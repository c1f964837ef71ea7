"""Double buffering, executed: links as fast as asked for, and speedups over loading in turn."""

import pytest

from experiments.figures import emulated_prefetch
from hydrasim.cluster import Cluster, Device
from hydrasim.profile import StatedCosts
from hydrasim.workload import Shard, TrainingJob, Workload
from tests.experiments.figures.emulated import check


def test_both_ways_are_predicted_and_measured():
    frame = emulated_prefetch.run(smoke=True)
    check(emulated_prefetch, frame, num_rows=2)
    in_turn, buffered = frame.itertuples()
    assert (in_turn.prefetch, buffered.prefetch) == (False, True)
    assert in_turn.ratio == in_turn.measured_ratio == 1
    assert buffered.ratio == in_turn.simulated_s / buffered.simulated_s
    assert buffered.measured_ratio == in_turn.measured_s / buffered.measured_s


def test_the_rate_is_that_at_which_loads_take_as_long_as_units():
    shards = (Shard(1.0, 2.0, 640, 1280), Shard(1.5, 3.0, 64, 128))
    workload = Workload((TrainingJob("A", shards, 3),))
    rate = emulated_prefetch.loaded_bytes_a_second(workload, StatedCosts(workload, Cluster((Device(1 << 20),))))
    # F0 reads parameters, L1 and B0 all state; L1 and B0 compute a forward and a backward.
    assert rate == pytest.approx((640 + 192 + 1920) / (1.0 + 4.5 + 3.0))
