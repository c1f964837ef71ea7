"""Model and task parallelism: several jobs at a time, each spread over as few devices as hold it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from hydrasim.errors import SystemRefused
from hydrasim.systems.deepspeed_mp import DeepspeedMP

if TYPE_CHECKING:
    from hydrasim.cluster import Cluster
    from hydrasim.workload import Workload


@dataclass(frozen=True)
class DeepspeedMPTask(DeepspeedMP):
    """Groups of devices train a job each, model-parallel; the next job goes to the group that is free first.

    num_groups: None for the most such that every group holds every job; devices are dealt out evenly.

    Source: "DeepSpeed model+task" of the paper's Fig. 8; how many groups it had is not stated there.
    """

    registered_name = "deepspeed-mp-task"
    num_groups: int | None = None

    def groups(self, workload: Workload, cluster: Cluster) -> list[tuple[int, ...]]:
        count = len(cluster.devices)
        if self.num_groups is not None:
            if not 1 <= self.num_groups <= count:
                raise SystemRefused(f"{self.name}: num_groups is {self.num_groups}; there are {count} devices.")
            return dealt(count, self.num_groups)
        tried = (dealt(count, num_groups) for num_groups in range(count, 0, -1))
        return next((groups for groups in tried if self._all_fit(workload, cluster, groups)), dealt(count, 1))

    def _all_fit(self, workload: Workload, cluster: Cluster, groups: list[tuple[int, ...]]) -> bool:
        return all(
            self.fits(job, cluster, self.places(job, cluster, group)) for group in groups for job in workload.jobs
        )


def dealt(num_devices: int, num_groups: int) -> list[tuple[int, ...]]:
    """Deal devices out to groups of neighbours, as evenly as can be."""
    ends = [num_devices * group // num_groups for group in range(num_groups + 1)]
    return [tuple(range(start, end)) for start, end in pairwise(ends)]
