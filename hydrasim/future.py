"""What a plan knows of the future: where and when each block is used next."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from hydrasim.dataflow import BlockKey, tied_gradients_of, updates_state
from hydrasim.host_updates import outdates_copies
from hydrasim.workload import Phase, ShardUnit

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hydrasim.dag import Templates
    from hydrasim.plan import Plan
    from hydrasim.workload import Workload

# The phases that do not use a block, though they work on the same shard; update units use only state and gradients.
_UNCONCERNED = {"w": (), "d": (Phase.FORWARD, Phase.EVALUATE)}


class Future:
    """Exact next uses under a plan; positions count units within one device's plan."""

    def __init__(self, plan: Plan, workload: Workload, templates: Mapping[str, Templates]) -> None:
        self._plan, self._device_of = plan, plan.device_of
        self._position_of = plan.position_of
        self._templates = templates
        self._jobs = workload.by_name

    def next_use(self, key: BlockKey, unit: ShardUnit, device: int) -> int | None:
        """Return when the device next uses the block as it is after `unit`; None when it never does.

        A copy of state dies when another device, or the host, updates the shard first.
        """
        job = self._jobs[key.job]
        for later in self._uses(key, unit):
            if self._device_of[later] == device:
                return self._position_of[later]
            if key.kind == "w" and (updates_state(job, later) or outdates_copies(job, later)):
                return None
        return None

    def keeps(self, key: BlockKey, unit: ShardUnit, device: int) -> bool:
        """Tell whether a forward's activations are of use: its backward is on this device, and nobody gave them up."""
        step = self._plan.devices[self._device_of[unit]][self._position_of[unit]]
        return step.mode != "recompute" and self.next_use(key, unit, device) is not None

    def next_turn(self, key: BlockKey, unit: ShardUnit) -> int:
        """Return the place in `order` of the next unit, on any device, that uses state; its length if none does."""
        later = next(self._uses(key, unit), None)
        return len(self.order) if later is None else self._turn_of[later]

    @cached_property
    def order(self) -> list[ShardUnit]:
        """One order of all units that respects the devices' and the jobs' own; as far as there is one.

        About the order in which they would start if they took what the workload states, and nothing else
        took time: a function of workload and plan, so that it cannot depend on how a run goes.
        """
        order: list[ShardUnit] = []
        chains = {name: self._chain(name) for name in self._jobs}
        front = {name: next(chain, None) for name, chain in chains.items()}
        ready_s = {name: job.arrival_s for name, job in self._jobs.items()}
        free_s, position = [0.0] * len(self._plan.devices), [0] * len(self._plan.devices)
        while True:
            best: tuple[float, int, ShardUnit] | None = None
            for device, steps in enumerate(self._plan.devices):
                unit = steps[position[device]].unit if position[device] < len(steps) else None
                if unit is not None and unit == front[unit.job]:
                    start_s = max(free_s[device], ready_s[unit.job])
                    best = min(best or (start_s, device, unit), (start_s, device, unit), key=lambda found: found[:2])
            if best is None:
                return order
            start_s, device, unit = best
            free_s[device] = ready_s[unit.job] = start_s + self._jobs[unit.job].unit_s(unit.phase, unit.shard)
            front[unit.job] = next(chains[unit.job], None)
            position[device] += 1
            order.append(unit)

    @cached_property
    def _turn_of(self) -> dict[ShardUnit, int]:
        return {unit: turn for turn, unit in enumerate(self.order)}

    def _chain(self, job: str) -> Iterator[ShardUnit]:
        """Yield a job's units in their order."""
        for minibatch in range(self._jobs[job].num_minibatches):
            for node in self._templates[job].of(minibatch).nodes:
                yield ShardUnit(job, *node, minibatch)

    def stays(self, unit: ShardUnit, device: int) -> bool:
        """Tell whether the very next use of the unit's state is on this device."""
        key = BlockKey("w", unit.job, unit.shard, -1)
        later = next(self._uses(key, unit), None)
        return later is not None and self._device_of[later] == device

    def _uses(self, key: BlockKey, unit: ShardUnit) -> Iterator[ShardUnit]:
        """Yield the units after `unit`, in the job's order, that work on the block's shard and use it."""
        if key.kind == "t":
            yield from self._uses_of_tied(key, unit)
            return
        templates, job = self._templates[key.job], self._jobs[key.job]
        now = templates.of(unit.minibatch).index[unit.phase, unit.shard]
        adds_up = key.kind == "d" and not job.schedule.steps_after(unit.minibatch)
        end = job.num_minibatches if key.kind == "w" else min(job.num_minibatches, unit.minibatch + 1 + adds_up)
        for minibatch in range(unit.minibatch, end):
            template = templates.of(minibatch)
            for position in template.uses[key.shard]:
                is_later = minibatch > unit.minibatch or position > now
                if is_later and template.nodes[position][0] not in _UNCONCERNED.get(key.kind, (Phase.UPDATE,)):
                    yield ShardUnit(key.job, *template.nodes[position], minibatch)

    def _uses_of_tied(self, key: BlockKey, unit: ShardUnit) -> Iterator[ShardUnit]:
        """Yield the units after `unit` that read these gradients of tied weights; most are of other shards."""
        job = self._jobs[key.job]
        for minibatch in range(unit.minibatch, min(job.num_minibatches, key.minibatch + 2)):
            template = self._templates[key.job].of(minibatch)
            begin = template.index[unit.phase, unit.shard] + 1 if minibatch == unit.minibatch else 0
            for node in template.nodes[begin:]:
                later = ShardUnit(key.job, *node, minibatch)
                if key in tied_gradients_of(job, later)[0]:
                    yield later
