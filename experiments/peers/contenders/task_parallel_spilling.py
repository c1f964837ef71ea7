"""Task parallelism with spilling: ours without SHARP, a device keeps its job until that ends."""

from __future__ import annotations

from experiments.peers.contender import Rank, Task
from experiments.peers.contenders.ours import Ours


class TaskParallelSpilling(Ours):
    """The same executor in the same memory under the policy `task-parallel`.

    Source: the paper's task-parallel baseline, given spilling so that models need not fit.
    """

    registered_name = "task-parallel-spilling"

    def __init__(self, task: Task, rank: Rank) -> None:
        super().__init__(task, rank)
        self.policy = "task-parallel"
