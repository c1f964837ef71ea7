"""Model and task parallelism: several jobs at a time, each spread over as few devices as hold it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrasim.systems.base import task_groups
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
        return task_groups(self, workload, cluster, self.num_groups)
