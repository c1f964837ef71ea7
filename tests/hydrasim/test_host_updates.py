"""Updates in host memory: their place among copies and units, to the second, and what they refuse."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hydrasim import Cluster, Device, Link, Shard, TrainingJob, Workload
from hydrasim.command import Kind, Lane
from hydrasim.errors import WorkloadError
from hydrasim.explain import explain
from hydrasim.host_updates import outdates_copies, shards_updated_after
from hydrasim.optimum.bounds import loaded_bytes, lower_bounds, stored_bytes
from hydrasim.profile import StatedCosts
from hydrasim.simulator import simulate
from hydrasim.workload import Phase, ShardUnit

SHARD = Shard(1.0, 2.0, parameter_bytes=64, optimizer_bytes=128, update_s=4.0, gradient_bytes=64)
SPEED = Cluster.of(1, Device(1 << 12, h2d=Link(64.0), d2h=Link(32.0)))  # parameters load in 1 s, gradients store in 2


def job(shards: int = 1, **fields: object) -> TrainingJob:
    return TrainingJob("A", (SHARD,) * shards, **({"minibatches": 2, "host_updates": "each"} | fields))


def spans(made: TrainingJob, kind: Kind, cluster: Cluster = SPEED) -> dict[str, tuple[float, float]]:
    timeline = simulate(Workload((made,)), cluster, "fifo")
    return {span.unit: (span.start_s, span.end_s) for span in timeline.spans if span.kind == kind.value}


def test_an_update_follows_the_gradients_store_and_precedes_the_next_load():
    # load 1, unit (forward, recomputed nothing: fused) 1 + 2, store 2, update 4, load 1, unit 3, store 2, update 4
    assert spans(job(), Kind.COMPUTE) == {"A/L0#0": (1.0, 4.0), "A/L0#1": (11.0, 14.0)}
    assert spans(job(), Kind.UPDATE) == {"A/U0#0": (6.0, 10.0), "A/U0#1": (16.0, 20.0)}


def test_each_shard_is_updated_once_its_gradients_are_there_or_all_once_all_are():
    each, every = (spans(job(2, minibatches=1, host_updates=mode), Kind.UPDATE) for mode in ("each", "all"))
    computes = spans(job(2, minibatches=1), Kind.COMPUTE)
    assert each["A/U1#0"][0] == computes["A/L1#0"][1] + 2.0
    assert each["A/U0#0"][0] == max(computes["A/B0#0"][1] + 2.0, each["A/U1#0"][1])
    assert every["A/U0#0"][0] == computes["A/B0#0"][1] + 2.0
    assert every["A/U1#0"][0] == every["A/U0#0"][1]


def test_an_update_can_be_explained():
    timeline = simulate(Workload((job(),)), SPEED, "fifo")
    text = explain(timeline, "A/U0#1").text()
    assert text.startswith("A/U0#1 ran on the host from 16 s to 20 s (4 s), simulated under fifo.")
    assert "store A/d0#1 on d2h:0, over at 16 s" in text
    assert "update A/U0#0 A/w0" in text or "update A/w0" in text


def test_other_jobs_work_goes_on_meanwhile():
    both = Workload((job(), replace(job(), name="B")))
    alone_s = simulate(Workload((job(),)), SPEED, "fifo").makespan_s
    timeline = simulate(both, SPEED, "fifo")
    assert timeline.makespan_s < 1.5 * alone_s
    updates = [span for span in timeline.spans if span.kind == Kind.UPDATE.value]
    assert {span.lane_key for span in updates} == {("A", Lane.UPDATE.value), ("B", Lane.UPDATE.value)}


def test_a_step_takes_as_many_mini_batches_as_the_job_says():
    made = job(2, minibatches=5, accumulate=2, host_updates="all")
    assert list(spans(made, Kind.UPDATE)) == ["A/U0#1", "A/U1#1", "A/U0#3", "A/U1#3"]
    unit = ShardUnit("A", Phase.BACKWARD, 0, 1)
    assert outdates_copies(made, unit)
    assert shards_updated_after(made, unit) == [0, 1]
    assert not outdates_copies(made, unit._replace(minibatch=2))
    assert not shards_updated_after(made, unit._replace(minibatch=2))


def test_a_shard_without_gradients_stays_as_it_is():
    frozen = TrainingJob("A", (replace(SHARD, gradient_bytes=0), SHARD), 3, host_updates="all")
    assert {name.partition("#")[0] for name in spans(frozen, Kind.UPDATE)} == {"A/U1"}
    assert not outdates_copies(frozen, ShardUnit("A", Phase.BACKWARD, 0, 0))


def test_the_optimizers_state_never_moves_and_bounds_know_it():
    made = job(2, minibatches=3)
    timeline = simulate(Workload((made,)), SPEED, "fifo")
    loads = sum(s.nbytes for s in timeline.spans if s.kind == Kind.LOAD.value and "/w" in s.block)
    stores = sum(s.nbytes for s in timeline.spans if s.kind == Kind.STORE.value and "/d" in s.block)
    assert loads == loaded_bytes(made, 1 << 12) == 3 * 2 * 64
    assert stores == stored_bytes(made, 1 << 12) == 3 * 2 * 64
    assert not [s for s in timeline.spans if s.kind == Kind.STORE.value and "/w" in s.block]
    alone = job(1, minibatches=1)
    bounds = lower_bounds(Workload((alone,)), SPEED, StatedCosts(Workload((alone,)), SPEED), "overheads")
    assert bounds["longest_job"] == simulate(Workload((alone,)), SPEED, "fifo").makespan_s == 10.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"update_units": True}, "has update_units and host_updates; the optimizer steps once"),
        ({"shards": (replace(SHARD, forward_updates=True),)}, "shards with forward_updates, which change state on a"),
        ({"host_updates": "no"}, "these are of jobs with update_units or host_updates"),
        ({"tied_shards": (0, 1), "tied_bytes": 8}, "ties take at least two of the job's shards"),
    ],
)
def test_what_does_not_go_together_is_refused(fields, message):
    with pytest.raises(WorkloadError, match=message):
        replace(job(2), **fields)
