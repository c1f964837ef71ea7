"""Where a run is in the plan that it follows: each device's next step, and what binding is to come to."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from hydrasim.plan import Placement

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from hydrasim.command import Command
    from hydrasim.plan import Plan
    from hydrasim.progress import JobProgress
    from hydrasim.workload import ShardUnit


class Following:
    """The plan of a run and how far it is. positions: per device, of its next step. memory_of: what binding came to.

    order: of all units, where they must be bound in one; what lies in host memory follows from it, which is one for
    all devices. None: each device's own order is enough.
    """

    def __init__(self, plan: Plan, order: Sequence[ShardUnit] | None) -> None:
        self.plan = plan
        self.order = None if order is None else deque(order)
        self.positions = [0] * len(plan.devices)
        self.memory_of: dict[ShardUnit, Placement] = {}
        self._aside: set[str] = set()

    def set_aside(self, job: str) -> None:
        """Leave out a job's steps; from then on others lie elsewhere than the plan says."""
        self._aside.add(job)
        if self.order is not None:
            self.order = deque(unit for unit in self.order if unit.job != job)

    def eligible(self, device: int, progress: Mapping[str, JobProgress]) -> list[ShardUnit]:
        """Return the plan's next unit for the device once every unit before it has been issued."""
        steps = self.plan.devices[device]
        while self.positions[device] < len(steps) and steps[self.positions[device]].unit.job in self._aside:
            self.positions[device] += 1
        if self.positions[device] == len(steps):
            return []
        unit = steps[self.positions[device]].unit
        return [unit] if unit in progress[unit.job].issuable() else []

    def bound(self, unit: ShardUnit, device: int, compute: Command, evicted: tuple[str, ...] | None) -> None:
        """Go on to the device's next step; note where the unit's state lies and what made room, None without memory.

        Raises:
            PlanError: that is not what the plan says.
        """
        if evicted is not None:
            offset = next((offset for key, offset in compute.places if key.kind == "w"), 0)
            found = Placement(offset, evicted, compute.mode)
            if not self._aside:
                self.plan.devices[device][self.positions[device]].check(found)
            self.memory_of[unit] = found
        self.positions[device] += 1
