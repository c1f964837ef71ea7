"""What a plan knows of the future: where and when each block is used next."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydrasim.dataflow import BlockKey
from hydrasim.workload import Phase, ShardUnit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hydrasim.dag import Template
    from hydrasim.plan import Plan
    from hydrasim.workload import Workload


class Future:
    """Exact next uses under a plan; positions count units within one device's plan."""

    def __init__(self, plan: Plan, workload: Workload, templates: Mapping[str, Template]) -> None:
        self._device_of = plan.device_of
        self._position_of = plan.position_of
        self._templates = templates
        self._jobs = workload.by_name

    def next_use(self, key: BlockKey, unit: ShardUnit, device: int) -> int | None:
        """Return when the device next uses the block as it is after `unit`; None when it never does.

        A copy of state dies when another device updates the shard first.
        """
        for later in self._uses(key, unit):
            if self._device_of[later] == device:
                return self._position_of[later]
            if key.kind == "w" and later.phase is not Phase.FORWARD:
                return None
        return None

    def stays(self, unit: ShardUnit, device: int) -> bool:
        """Tell whether the very next use of the unit's state is on this device."""
        key = BlockKey("w", unit.job, unit.shard, -1)
        later = next(self._uses(key, unit), None)
        return later is not None and self._device_of[later] == device

    def _uses(self, key: BlockKey, unit: ShardUnit) -> Iterator[ShardUnit]:
        """Yield the units after `unit`, in the job's order, that work on the block's shard."""
        template = self._templates[key.job]
        now = template.index[unit.phase, unit.shard]
        minibatches = range(
            unit.minibatch, self._jobs[key.job].num_minibatches if key.kind == "w" else unit.minibatch + 1
        )
        for minibatch in minibatches:
            for position in template.uses[key.shard]:
                if minibatch > unit.minibatch or position > now:
                    yield ShardUnit(key.job, *template.nodes[position], minibatch)
