"""Task parallelism: one job a device, from its first unit to its last."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrasim.policies.base import Policy

if TYPE_CHECKING:
    from hydrasim.view import View
    from hydrasim.workload import ShardUnit


@dataclass(frozen=True)
class TaskParallel(Policy):
    """Keep a device with its job until the job ends, then start the first job that nobody has begun.

    With shards that do not all fit, this is task-parallel spilling.

    Source: the paper's Fig. 6 and its task-parallel baseline.
    """

    def choose(self, device: int, view: View) -> ShardUnit | None:
        eligible = view.eligible(device)
        own = [unit for unit in eligible if device in view.job(unit.job).devices]
        if own:
            return own[0]
        if any(device in job.devices and job.num_issued_units < job.job.num_units for job in view.jobs):
            return None
        return next((unit for unit in eligible if not view.job(unit.job).devices), None)
