"""Jobs as plain values: what only few have is left out, and what a plan depends on has no seconds."""

from __future__ import annotations

from hydrasim import Shard, TrainingJob
from hydrasim.fields import fields_without_seconds, job_fields

PLAIN = TrainingJob("A", (Shard(1.0, 2.0, 64),), 3, fetch_s=0.5)
FEW = {"evaluation_minibatches", "max_minibatches", "ends_after", "host_updates", "update_units", "accumulate"}


def test_what_only_few_jobs_have_is_left_out():
    fields = job_fields(PLAIN)
    assert not fields.keys() & (FEW | {"tied_shards", "tied_bytes"})
    assert not fields["shards"][0].keys() & {"update_s", "gradient_bytes", "evaluate_s", "forward_updates"}


def test_what_a_job_has_is_there():
    shard = Shard(1.0, 2.0, 64, update_s=0.5, gradient_bytes=64, evaluate_s=0.75)
    job = TrainingJob(
        "A", (shard,), 4, update_units=True, accumulate=2, evaluation_minibatches=1, max_minibatches=3, ends_after=2
    )
    fields = job_fields(job)
    assert {name: fields[name] for name in FEW - {"host_updates"}} == {
        "evaluation_minibatches": 1, "max_minibatches": 3, "ends_after": 2, "update_units": True, "accumulate": 2,
    }  # fmt: skip
    assert fields["shards"][0]["evaluate_s"] == 0.75


def test_plans_do_not_depend_on_seconds():
    names = {*fields_without_seconds(PLAIN), *fields_without_seconds(PLAIN)["shards"][0]}
    assert not [name for name in names if name.endswith("_s")]
