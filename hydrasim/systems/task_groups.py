"""Task parallelism: groups of devices train jobs beside each other, each group by another system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hydrasim.systems.base import Build, System, task_groups
from hydrasim.systems.registry import parse_system

if TYPE_CHECKING:
    from hydrasim.cluster import Cluster
    from hydrasim.workload import TrainingJob, Workload


@dataclass(frozen=True)
class TaskGroups(System):
    """Groups of devices train a job each, by one technique; the next job goes to the group that is free first.

    technique: a system that trains one job on a group of devices, with options if need be, such as
    fsdp:recompute=false. num_groups: None for the most such that every group holds every job; devices are dealt out
    evenly.

    Source: what a cluster does that gives each job some of its devices, as Saturn's Min- and Max-heuristic do
    (Nagrecha and Kumar, VLDB 2024) with the fewest and with all.
    """

    registered_name = "task-groups"
    technique: str = "ddp"
    num_groups: int | None = None

    def groups(self, workload: Workload, cluster: Cluster) -> list[tuple[int, ...]]:
        return task_groups(self, workload, cluster, self.num_groups)

    def memory_bytes(self, job: TrainingJob, cluster: Cluster, devices: Sequence[int]) -> list[int]:
        return parse_system(self.technique).memory_bytes(job, cluster, devices)

    def host_bytes(self, job: TrainingJob, cluster: Cluster, devices: Sequence[int]) -> int:
        return parse_system(self.technique).host_bytes(job, cluster, devices)

    def minibatch(self, build: Build, minibatch: int) -> None:
        parse_system(self.technique).minibatch(build, minibatch)
