"""How far one job is: which units may be issued, and how much training time remains."""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

from hydrasim.workload import ShardUnit, TrainingJob

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hydrasim.dag import Template, Templates
    from hydrasim.profile import CostModel


class JobProgress:
    """The mutable progress of one job; policies read it, only the orchestrator changes it.

    The cursor stands at one mini-batch: `issued` and `done` hold positions in its template. It moves
    on when every unit of the mini-batch is issued and the first of the next one is. num_host_work: updates and saves on
    the host, issued and not done; the next mini-batch is offered when there are none. saving: the mini-batch after
    which its state was saved last, or is to be; saved: the one at which it would go on from there. is_stopped: the
    job was told to end, for good. unit_s: believed seconds of the units of a mini-batch after which the optimizer
    steps; others lack the update units, which come last. evaluation_s: of one to evaluate on. is_set_aside: it failed.
    """

    def __init__(
        self,
        order: int,
        job: TrainingJob,
        templates: Templates,
        unit_s: Sequence[float],
        evaluation_s: Sequence[float] = (),
    ) -> None:
        self.order = order
        self.job = job
        self.templates = templates
        self.minibatch = self.minibatches_done = 0
        self.num_done_units = 0
        self.num_issued_units = 0
        self.num_host_work = 0
        self.busy_s = 0.0  # measured seconds of the units done
        self.last_issue = -1  # run-wide sequence number of the newest issue
        self.devices: dict[int, int] = {}  # device -> units issued there
        self._issued: set[int] = set()
        self._done: set[int] = set()
        self._outstanding: list[ShardUnit] = []
        self._num_units = job.num_units
        self._left: dict[int, int] = {}  # mini-batch begun and not done -> its units that are not done
        num_in_passes = len(templates.without_step.nodes)
        self._unit_s = {templates.without_step: unit_s, templates.with_step: unit_s, templates.evaluation: evaluation_s}
        passes_s, updates_s, self._evaluation_s = sum(unit_s[:num_in_passes]), sum(unit_s[num_in_passes:]), 0.0
        self._minibatch_s = {templates.without_step: passes_s, templates.with_step: sum(unit_s)}
        if job.evaluation_minibatches:
            self._evaluation_s = self._minibatch_s[templates.evaluation] = sum(evaluation_s)
        schedule = job.schedule
        self.minibatch_s = passes_s + updates_s * schedule.num_steps / schedule.num_trained
        self.minibatch_left_s = self._minibatch_s[templates.of(0)]
        self.remaining_s = self._remaining_s()
        self._ready: list[ShardUnit] | None = None
        self.arrived, self.paused = not job.arrival_s, False
        self.num_fetched = 0  # mini-batches that the loader was asked for
        self.saved, self.saving = 0, -1
        self.is_stopped = self.is_set_aside = False

    @classmethod
    def at_the_beginning(
        cls, order: int, job: TrainingJob, templates: Templates, beliefs: CostModel, num_devices: int
    ) -> JobProgress:
        """Return the progress of a job whose units take what is believed; on devices that differ, the mean of that."""

        def unit_s(template: Template) -> list[float]:
            units = [ShardUnit(job.name, *node, 1) for node in template.nodes]
            found = [[beliefs.compute_s(unit, device) for device in range(num_devices)] for unit in units]
            return [seconds[0] if len(set(seconds)) == 1 else fmean(seconds) for seconds in found]

        evaluation_s = unit_s(templates.evaluation) if job.evaluation_minibatches else ()
        return cls(order, job, templates, unit_s(templates.with_step), evaluation_s)

    def arrive(self) -> None:
        """Count the job as submitted; until then nothing of it may run."""
        self.arrived, self._ready = True, None

    def pause(self, paused: bool) -> None:
        """Have nothing of the job begin any more, or let it go on."""
        self.paused, self._ready = paused, None

    def note_host_work(self, change: int) -> None:
        """Count an update or a save on the host as issued (1) or done (-1)."""
        self.num_host_work += change
        self._ready = None

    def stop(self, *, resumable: bool = False) -> None:
        """End the job with the mini-batch at which it is; one that has not begun never does.

        resumable: with the first one, from that on, after which it can go on from its state.
        """
        self.is_stopped = not resumable
        if not self.num_issued_units:
            self._num_units, self.arrived, self._ready = 0, False, None
            return
        self.pause(False)
        last, schedule = self.minibatch, self.job.schedule
        while resumable and last < schedule.num_minibatches - 1 and not schedule.can_end_after(last):
            last += 1
        self.job = replace(self.job, ends_after=last + 1)
        self._num_units, self._ready = self.job.num_units, None
        self.remaining_s = self._remaining_s()

    def set_aside(self) -> None:
        """End the job where it is; what it has under way does not count."""
        self.is_set_aside, self.arrived, self._ready = True, False, None
        self._outstanding.clear()
        self.num_host_work, self._num_units = 0, self.num_done_units
        self.remaining_s = 0.0

    @property
    def is_all_issued(self) -> bool:
        """Whether every unit of the mini-batch at which the cursor stands was issued."""
        return len(self._issued) == len(self.template.nodes)

    @property
    def finished(self) -> bool:
        return self.num_done_units == self._num_units

    @property
    def template(self) -> Template:
        """The DAG of the mini-batch at which the cursor stands."""
        return self.templates.of(self.minibatch)

    @property
    def minibatches_left(self) -> int:
        """Mini-batches left after the current one, over all epochs; those to evaluate on are not counted."""
        schedule = self.job.schedule
        return schedule.num_trained - schedule.trained_before(self.minibatch + 1)

    def _remaining_s(self) -> float:
        """Return the believed seconds left: ((e - 1) b + c_e - 1) t + c_m, and those of evaluations.

        Source: Algorithm 2 of the paper, with (e - 1) b + c_e - 1, t and c_m spelt minibatches_left, minibatch_s
        and minibatch_left_s.
        """
        num_evaluations = self.job.schedule.num_minibatches - (self.minibatch + 1) - self.minibatches_left
        training_s = self.minibatches_left * self.minibatch_s
        return training_s + num_evaluations * self._evaluation_s + self.minibatch_left_s

    def front(self) -> list[ShardUnit]:
        """Return the units whose predecessors are all done and that have not been issued."""
        if self._ready is None:
            self._ready = self._next_units(self._done, self._outstanding, self.num_host_work)
        return self._ready

    def successors(self, running: ShardUnit) -> list[ShardUnit]:
        """Return the units that become ready at once when `running` ends."""
        if running.minibatch != self.minibatch or self.paused:
            return []
        template = self.template
        position = template.index[running.phase, running.shard]
        if self.is_all_issued:
            others = [unit for unit in self._outstanding if unit != running]
            return self._next_units(self._done, others, self.num_host_work)
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
            self.minibatch_left_s = self._minibatch_s[self.template]
        position = self.template.index[unit.phase, unit.shard]
        self._issued.add(position)
        self._outstanding.append(unit)
        self._left.setdefault(unit.minibatch, len(self.template.nodes))
        left_s = self.minibatch_left_s - self._unit_s[self.template][position]
        self.minibatch_left_s = 0.0 if self.is_all_issued else left_s
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
        self._left[unit.minibatch] -= 1
        if not self._left[unit.minibatch]:
            del self._left[unit.minibatch]
            self.minibatches_done += 1
        self.busy_s += seconds
        self._ready = None

    def rewind(self, units: Sequence[ShardUnit], devices: Sequence[int]) -> None:
        """Count units as not issued, from the newest to the oldest; devices: to which they had been."""
        for unit, device in zip(units, devices, strict=True):
            if unit in self._outstanding:
                self._outstanding.remove(unit)
            else:
                self.num_done_units -= 1
                if unit.minibatch not in self._left:
                    self._left[unit.minibatch] = 0
                    self.minibatches_done -= 1
                self._left[unit.minibatch] += 1
            self.num_issued_units -= 1
            self.devices[device] -= 1
        oldest = units[-1]
        position = self.templates.of(oldest.minibatch).index[oldest.phase, oldest.shard]
        self._stand_at(oldest.minibatch, position)

    def restart(self) -> None:
        """Count everything after the last checkpoint as still to be done, of a job of which nothing is under way."""
        self.minibatches_done = self.num_fetched = self.saved
        self.num_done_units = replace(self.job, ends_after=self.saved).num_units if self.saved else 0
        self.num_issued_units = self.num_done_units
        self.saving = self.saved - 1
        self._left.clear()
        self._stand_at(self.saved, 0)

    def _stand_at(self, minibatch: int, position: int) -> None:
        """Have all units up to a position of a mini-batch issued, and those of them that are not outstanding done."""
        if not position and minibatch:
            minibatch -= 1
            position = len(self.templates.of(minibatch).nodes)
        self.minibatch = minibatch
        self._issued = set(range(position))
        template = self.template
        running = {template.index[u.phase, u.shard] for u in self._outstanding if u.minibatch == minibatch}
        self._done = self._issued - running
        left = range(position, len(template.nodes))
        self.minibatch_left_s = sum(self._unit_s[template][i] for i in left)
        self.remaining_s = self._remaining_s()
        self._ready = None

    def _next_units(self, satisfied: set[int], outstanding: list[ShardUnit], num_host_work: int = 0) -> list[ShardUnit]:
        """Return unissued units with satisfied predecessors; a mini-batch starts when the last one is over."""
        template, job = self.template, self.job
        if not self.arrived or self.paused:
            return []
        if self.is_all_issued:
            if outstanding or num_host_work or self.minibatch + 1 >= job.num_minibatches:
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
