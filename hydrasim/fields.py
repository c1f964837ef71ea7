"""Jobs as plain values, for files and for digests."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydrasim.workload import TrainingJob

_SECONDS = {"fetch_s", "arrival_s", "forward_s", "backward_s", "update_s", "evaluate_s"}


def job_fields(job: TrainingJob) -> dict[str, Any]:
    """Return a job as plain values, without what only few have, so that files and digests of others never change."""
    fields = asdict(job)
    for name in ("evaluation_minibatches", "max_minibatches", "ends_after"):
        if not fields[name]:
            del fields[name]
    if job.host_updates == "no":
        del fields["host_updates"]
    if not job.separate_updates:
        del fields["update_units"], fields["accumulate"]
    if not job.tied_shards:
        del fields["tied_shards"], fields["tied_bytes"]
    for shard in fields["shards"]:
        if not job.separate_updates:
            del shard["update_s"], shard["gradient_bytes"]
        if not job.evaluation_minibatches:
            del shard["evaluate_s"]
        if not shard["forward_updates"]:
            del shard["forward_updates"]
    return fields


def fields_without_seconds(job: TrainingJob) -> dict[str, Any]:
    """Return what a plan for a job depends on."""
    fields = {name: value for name, value in job_fields(job).items() if name not in _SECONDS}
    shards = [{name: value for name, value in shard.items() if name not in _SECONDS} for shard in fields["shards"]]
    return fields | {"shards": shards}
