"""How far one job is: which units may be issued, and how much training time remains."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hydrasim.workload import ShardUnit, TrainingJob

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydrasim.dag import Template, Templates


class JobProgress:
    """The mutable progress of one job; policies read it, only the orchestrator changes it.

    The cursor stands at one mini-batch: `issued` and `done` hold positions in its template. It moves
    on when every unit of the mini-batch is issued and the first of the next one is. num_updates: on the host, issued
    and not done; the next mini-batch is offered when there are none. unit_s: believed seconds of the
    units of a mini-batch after which the optimizer steps; others lack the update units, which come last.
    """

    def __init__(self, order: int, job: TrainingJob, templates: Templates, unit_s: Sequence[float]) -> None:
        self.order = order
        self.job = job
        self.templates = templates
        self.minibatch = 0
        self.num_done_units = 0
        self.num_issued_units = 0
        self.num_updates = 0
        self.busy_s = 0.0  # measured seconds of the units done
        self.last_issue = -1  # run-wide sequence number of the newest issue
        self.devices: dict[int, int] = {}  # device -> units issued there
        self._issued: set[int] = set()
        self._done: set[int] = set()
        self._outstanding: list[ShardUnit] = []
        self._num_units = job.num_units
        self._unit_s = unit_s
        num_in_passes = len(templates.without_step.nodes)
        self._minibatch_s = {True: sum(unit_s), False: sum(unit_s[:num_in_passes])}
        updates_s = sum(unit_s[num_in_passes:])
        self.minibatch_s = self._minibatch_s[False] + updates_s * job.num_steps / job.num_minibatches
        self.minibatch_left_s = self._minibatch_s[job.steps_after(0)]
        self.remaining_s = self._remaining_s()
        self._ready: list[ShardUnit] | None = None
        self.arrived = not job.arrival_s

    def arrive(self) -> None:
        """Count the job as submitted; until then nothing of it may run."""
        self.arrived, self._ready = True, None

    def note_update(self, change: int) -> None:
        """Count an update on the host as issued (1) or done (-1)."""
        self.num_updates += change
        self._ready = None

    def stop(self) -> None:
        """End the job with the mini-batch at which it is; one that has not begun never does."""
        if not self.num_issued_units:
            self._num_units, self.arrived, self._ready = 0, False, None
            return
        self.job = replace(self.job, minibatches=self.minibatch + 1, epochs=1)
        self._num_units, self._ready = self.job.num_units, None
        self.remaining_s = self._remaining_s()

    @property
    def finished(self) -> bool:
        return self.num_done_units == self._num_units

    @property
    def template(self) -> Template:
        """The DAG of the mini-batch at which the cursor stands."""
        return self.templates.of(self.minibatch)

    @property
    def minibatches_done(self) -> int:
        between = self.job.accumulate - 1
        num_units = len(self.templates.without_step.nodes)
        steps, rest = divmod(self.num_done_units, between * num_units + len(self.templates.with_step.nodes))
        return steps * self.job.accumulate + min(between, rest // num_units)

    @property
    def minibatches_left(self) -> int:
        """Mini-batches left in the current epoch, the current one included."""
        return self.job.minibatches - self.minibatch % self.job.minibatches

    @property
    def epochs_left(self) -> int:
        """Epochs left, the current one included."""
        return self.job.epochs - self.minibatch // self.job.minibatches

    def _remaining_s(self) -> float:
        """Return the believed training seconds left: ((e - 1) b + c_e - 1) t + c_m.

        Source: Algorithm 2 of the paper, with e, b, c_e, t and c_m spelt epochs_left,
        minibatches_per_epoch, minibatches_left, minibatch_s and minibatch_left_s.
        """
        whole = (self.epochs_left - 1) * self.job.minibatches + self.minibatches_left - 1
        return whole * self.minibatch_s + self.minibatch_left_s

    def front(self) -> list[ShardUnit]:
        """Return the units whose predecessors are all done and that have not been issued."""
        if self._ready is None:
            self._ready = self._next_units(self._done, self._outstanding, self.num_updates)
        return self._ready

    def successors(self, running: ShardUnit) -> list[ShardUnit]:
        """Return the units that become ready at once when `running` ends."""
        if running.minibatch != self.minibatch:
            return []
        template = self.template
        position = template.index[running.phase, running.shard]
        if len(self._issued) == len(template.nodes):
            others = [unit for unit in self._outstanding if unit != running]
            return self._next_units(self._done, others, self.num_updates)
        satisfied = self._done | {position}
        return [
            ShardUnit(running.job, *template.nodes[i], self.minibatch)
            for i in template.successors[position]
            if i not in self._issued and template.predecessors[i] <= satisfied
        ]

    def issuable(self) -> list[ShardUnit]:
        """Return the units whose predecessors have all been issued; following a plan needs no more."""
        return self._next_units(self._issued, [])

    def issue(self, unit: ShardUnit, device: int, sequence: int) -> None:
        """Count a unit as handed to a device."""
        if unit.minibatch != self.minibatch:
            self.minibatch = unit.minibatch
            self._issued, self._done = set(), set()
            self.minibatch_left_s = self._minibatch_s[self.job.steps_after(unit.minibatch)]
        position = self.template.index[unit.phase, unit.shard]
        self._issued.add(position)
        self._outstanding.append(unit)
        complete = len(self._issued) == len(self.template.nodes)
        self.minibatch_left_s = 0.0 if complete else self.minibatch_left_s - self._unit_s[position]
        self.num_issued_units += 1
        self.devices[device] = self.devices.get(device, 0) + 1
        self.last_issue = sequence
        self.remaining_s = self._remaining_s()
        self._ready = None

    def finish(self, unit: ShardUnit, seconds: float) -> None:
        """Count a unit as done."""
        self._outstanding.remove(unit)
        if unit.minibatch == self.minibatch:
            self._done.add(self.template.index[unit.phase, unit.shard])
        self.num_done_units += 1
        self.busy_s += seconds
        self._ready = None

    def _next_units(self, satisfied: set[int], outstanding: list[ShardUnit], num_updates: int = 0) -> list[ShardUnit]:
        """Return unissued units with satisfied predecessors; a mini-batch starts when the last one is over."""
        template, job = self.template, self.job
        if not self.arrived:
            return []
        if len(self._issued) == len(template.nodes):
            if outstanding or num_updates or self.minibatch + 1 >= job.num_minibatches:
                return []
            following = self.templates.of(self.minibatch + 1)
            return [ShardUnit(job.name, *following.nodes[i], self.minibatch + 1) for i in following.sources]
        previous_runs = any(unit.minibatch < self.minibatch for unit in outstanding)
        return [
            ShardUnit(job.name, *node, self.minibatch)
            for i, node in enumerate(template.nodes)
            if i not in self._issued
            and template.predecessors[i] <= satisfied
            and (template.predecessors[i] or not previous_runs)
        ]
