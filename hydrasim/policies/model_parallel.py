"""Model parallelism: one job at a time, its shards spread over the devices."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrasim.policies.base import Policy

if TYPE_CHECKING:
    from hydrasim.view import View
    from hydrasim.workload import ShardUnit


@dataclass(frozen=True)
class ModelParallel(Policy):
    """Run the first unfinished job only; contiguous blocks of its shards belong to each device.

    Source: the paper's Fig. 6 and its PyTorch Distributed baseline.
    """

    work_conserving = False

    def choose(self, device: int, view: View) -> ShardUnit | None:
        current = next(job for job in view.jobs if job.num_issued_units < job.job.num_units)
        for unit in view.eligible(device):
            home = unit.shard * view.num_devices // len(current.job.shards)
            if unit.job == current.job.name and home == device:
                return unit
        return None
