"""Ours in the memory that the race gives it."""

from __future__ import annotations

import pytest

from experiments.peers.contenders.ours import prepare_for_peers, stopped_after
from experiments.peers.workloads import WORKLOADS, find_workload


@pytest.mark.parametrize("name", WORKLOADS)
def test_every_smoke_workload_can_be_cut_and_half_a_state_takes_several_shards(name):
    workload = find_workload(name, smoke=True)
    jobs = [workload.job(spec, "adamw") for spec in workload.specs]
    prepared = prepare_for_peers(workload, "adamw", jobs)
    shards = {part.job.name: len(part.shards) for part in prepared.partitions}
    largest = max(workload.specs, key=workload.num_weights).name
    assert (shards[largest] == 1) == (workload.budget_fraction >= 1)
    assert len(prepared.devices) == 2
    assert stopped_after(prepared, workload.minibatches).workload.jobs[0].num_minibatches == 3
