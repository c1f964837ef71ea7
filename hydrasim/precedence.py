"""Which commands a unit follows: its job's units before it, and the fetch of its mini-batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hydrasim.workload import ShardUnit

if TYPE_CHECKING:
    from hydrasim.progress import JobProgress


class Precedence:
    """The numbers of the commands that later units of the jobs may have to follow."""

    def __init__(self) -> None:
        self._compute_of: dict[ShardUnit, int] = {}
        self._fetch_of: dict[str, int] = {}  # job -> its newest fetch
        self._save_of: dict[str, int] = {}

    def note_compute(self, unit: ShardUnit, number: int) -> None:
        self._compute_of[unit] = number

    def note_fetch(self, job: str, number: int) -> None:
        self._fetch_of[job] = number

    def note_save(self, job: str, number: int) -> None:
        self._save_of[job] = number

    def computes_of(self, progress: JobProgress, minibatch: int) -> set[int]:
        """Return the computes of a mini-batch's units, but for those that are long done."""
        units = [ShardUnit(progress.job.name, *node, minibatch) for node in progress.templates.of(minibatch).nodes]
        return {self._compute_of[unit] for unit in units if unit in self._compute_of}

    def forget(self, unit: ShardUnit) -> None:
        """A unit is not to be followed any more; it will be issued again."""
        self._compute_of.pop(unit, None)

    def before(self, progress: JobProgress, unit: ShardUnit) -> set[int]:
        """Return the commands that the unit follows, by its DAG or from the mini-batch before, and its fetch.

        A mini-batch without bytes is fetched all the same: the loader hands the random stream on.
        """
        own, minibatch = progress.templates.of(unit.minibatch), unit.minibatch
        template, before = own, own.predecessors[own.index[unit.phase, unit.shard]]
        is_first = not before
        if is_first and minibatch:
            minibatch -= 1
            template = progress.templates.of(minibatch)
            before = frozenset(range(len(template.nodes)))
        units = [ShardUnit(unit.job, *template.nodes[i], minibatch) for i in before]
        found = {self._compute_of[before] for before in units if before in self._compute_of}  # else it is long done
        if is_first:
            found |= {numbers[unit.job] for numbers in (self._fetch_of, self._save_of) if unit.job in numbers}
        if is_first and minibatch:  # nothing will ask for the mini-batch before the last one
            for node in progress.templates.of(minibatch - 1).nodes:
                self._compute_of.pop(ShardUnit(unit.job, *node, minibatch - 1), None)
        return found
