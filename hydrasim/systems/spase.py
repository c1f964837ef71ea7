"""Solves Saturn's joint problem: how each job is trained, on how many devices, and when, in the least makespan."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Choices = Mapping[str, Sequence["Choice"]]  # by job

_NUM_UNITS = 1 << 14  # of time, at most, that the solver counts to
_EAGERNESS = (0.0, 0.25, 0.5, 0.75, 1.0)  # for least work rather than speed


@dataclass(frozen=True)
class Choice:
    """One way to train a job: by a technique, on so many devices of a pool, in so many seconds.

    devices: where it runs this way already, so that it can only go on, there and at once; () for any of the pool.
    """

    technique: str
    num_devices: int
    seconds: float
    pool: int = 0
    devices: tuple[int, ...] = ()


@dataclass(frozen=True)
class Placement:
    """A job's choice, with its devices and its time."""

    job: str
    choice: Choice
    devices: tuple[int, ...]
    start_s: float

    @property
    def end_s(self) -> float:
        return self.start_s + self.choice.seconds


@dataclass(frozen=True)
class Solution:
    """Who trains how, where and when, by start; and how good that is.

    status: "optimal" when the solver proved that no other makespan is shorter, to within its unit of time, and
    "feasible" when it ran out of time. bound_s: no makespan is shorter than this.
    """

    status: str
    bound_s: float
    placements: tuple[Placement, ...]

    @property
    def makespan_s(self) -> float:
        return max((placement.end_s for placement in self.placements), default=0.0)

    @property
    def gap_fraction(self) -> float:
        """Return the part of the makespan that a better solution could save at most."""
        return 1 - self.bound_s / self.makespan_s if self.makespan_s else 0.0

    def described(self) -> dict[str, Any]:
        """Return it as a timeline's header has it."""
        return {
            "status": self.status,
            "makespan_s": self.makespan_s,
            "bound_s": self.bound_s,
            "gap_fraction": self.gap_fraction,
            "jobs": {
                p.job: {"technique": p.choice.technique, "devices": list(p.devices), "start_s": p.start_s}
                for p in self.placements
            },
        }


def solve(
    choices: Choices, pools: Sequence[tuple[int, ...]], time_limit_s: float = 10.0, below_s: float = math.inf
) -> Solution:
    """Choose for every job, and place all of them, so that the last one ends soonest.

    choices: what each job can choose from. pools: groups of identical devices; a job stays within one.
    time_limit_s: of the solver, in its deterministic time, about a second each: it counts operations, and not
    the clock, so that the same input always gives the same solution. below_s: only a shorter makespan is of use; that
    there is none is found out sooner than the shortest one, and then the solution is a guess with about that bound.

    The printed problem has binaries for every job, device and pair of jobs, joined by large constants. This is the
    same problem as optional intervals: one interval for each choice of a job, of which one is there; those of a pool
    never need more devices than it has, and a job's devices start together as there is only one interval for them.

    Source: Saturn's SPASE (Nagrecha and Kumar, VLDB 2024), section 4; solved by CP-SAT instead of Gurobi.
    """
    useful = {job: undominated(options) for job, options in choices.items()}
    found = min(_guesses(useful, pools), key=_makespan_s)
    status, bound_s = "optimal", lower_bound_s(useful, pools)
    if _makespan_s(found) > bound_s:
        status, solved_s, better = _Model(useful, pools, found, below_s).solve(time_limit_s)
        bound_s, found = max(bound_s, solved_s), min(found, better or found, key=_makespan_s)
    by_start = tuple(sorted(found, key=lambda placement: placement.start_s))
    return Solution(status, min(bound_s, _makespan_s(found)), by_start)


def undominated(options: Sequence[Choice]) -> list[Choice]:
    """Return the choices to which no other is preferable: none that is as fast on as few devices of the pool."""
    kept: list[Choice] = [option for option in options if option.devices]
    for option in sorted(options, key=lambda option: (option.pool, option.num_devices, option.seconds)):
        better = (o for o in kept if not o.devices and o.pool == option.pool and o.seconds <= option.seconds)
        if not option.devices and not any(better):
            kept.append(option)
    return kept


def lower_bound_s(choices: Choices, pools: Sequence[tuple[int, ...]]) -> float:
    """Return a time that nothing can beat: the longest job at its fastest, or all work at its least on all devices."""
    longest_s = max((min(option.seconds for option in options) for options in choices.values()), default=0.0)
    work_s = sum(min(option.seconds * option.num_devices for option in options) for options in choices.values())
    return max(longest_s, work_s / sum(len(pool) for pool in pools))


def place(picks: Sequence[tuple[str, Choice]], pools: Sequence[tuple[int, ...]]) -> list[Placement]:
    """Give jobs devices in this order, each as soon as enough are free and none before an earlier one of its pool.

    Jobs that run on come first. Adjacent devices are preferred, since they often share links.
    """
    board = _Board(pools)
    running = [pick for pick in picks if pick[1].devices]
    return [board.put(job, choice) for job, choice in running + [pick for pick in picks if not pick[1].devices]]


class _Board:
    """When each device is free, and what its pool has begun last."""

    def __init__(self, pools: Sequence[tuple[int, ...]]) -> None:
        self._pools, self._begun_s = pools, [0.0] * len(pools)
        self._free_s = {device: 0.0 for pool in pools for device in pool}

    def start_s(self, choice: Choice) -> float:
        """Return when the choice can start."""
        if choice.devices:
            return 0.0
        free_s = sorted(self._free_s[device] for device in self._pools[choice.pool])
        return max(self._begun_s[choice.pool], free_s[choice.num_devices - 1])

    def put(self, job: str, choice: Choice) -> Placement:
        """Place a job."""
        start_s = self.start_s(choice)
        free = [device for device in self._pools[choice.pool] if self._free_s[device] <= start_s]
        devices = choice.devices or _adjacent(free, choice.num_devices)
        placement = Placement(job, choice, devices, start_s)
        self._begun_s[choice.pool] = start_s
        self._free_s.update(dict.fromkeys(devices, placement.end_s))
        return placement


def _adjacent(free: Sequence[int], count: int) -> tuple[int, ...]:
    """Return so many of the devices, adjacent ones if there are."""
    runs = (free[first : first + count] for first in range(len(free) - count + 1))
    return tuple(next((run for run in runs if run[-1] - run[0] == count - 1), free[:count]))


def _makespan_s(placements: Sequence[Placement]) -> float:
    return max((placement.end_s for placement in placements), default=0.0)


def _guesses(choices: Choices, pools: Sequence[tuple[int, ...]]) -> Iterator[list[Placement]]:
    """Yield placements by longest job first, from all jobs at their fastest to all at their least work.

    The first is never longer than one job after another, each at its fastest on all devices.
    """
    running = {job: [option for option in options if option.devices] for job, options in choices.items()}
    for eagerness in _EAGERNESS:
        best = {job: _best_by_pool(options, eagerness) for job, options in choices.items()}
        yield _guess(best, pools)
        yield _guess({job: running[job] or best[job] for job in choices}, pools)


def _best_by_pool(options: Sequence[Choice], eagerness: float) -> list[Choice]:
    """Return the best choice of each pool: the fastest at eagerness 0, the one of least work at 1."""
    best: dict[int, Choice] = {}
    for option in sorted(options, key=lambda o: (o.seconds * o.num_devices**eagerness, o.seconds)):
        best.setdefault(option.pool, option)
    return list(best.values())


def _guess(options: Choices, pools: Sequence[tuple[int, ...]]) -> list[Placement]:
    """Place the longest job first, each in the pool where it ends first."""
    board = _Board(pools)
    order = sorted(options, key=lambda job: (not options[job][0].devices, -max(o.seconds for o in options[job])))
    return [board.put(job, min(options[job], key=lambda o: board.start_s(o) + o.seconds)) for job in order]


class _Model:
    """The problem in whole units of time, for CP-SAT."""

    def __init__(
        self, choices: Choices, pools: Sequence[tuple[int, ...]], guess: Sequence[Placement], below_s: float
    ) -> None:
        from ortools.sat.python import cp_model

        self._pools, self._model = pools, cp_model.CpModel()
        seconds = [option.seconds for options in choices.values() for option in options]
        self._unit_s = _unit_s(seconds, _makespan_s(guess))
        # By so many units rounding up may lengthen a makespan: one for each job, and one for its own start.
        self._rounded = len(choices) + 1 if any(value % self._unit_s for value in seconds) else 0
        self._horizon = math.floor(min(_makespan_s(guess), below_s) / self._unit_s) + self._rounded
        self._makespan = self._model.new_int_var(0, self._horizon, "makespan")
        self._chosen: dict[str, list[tuple[Choice, cp_model.IntVar]]] = {}
        self._starts: dict[str, cp_model.IntVar] = {}
        self._intervals: list[list[tuple[int, cp_model.IntervalVar]]] = [[] for _ in pools]  # with devices, by pool
        self._work: list[list[cp_model.LinearExprT]] = [[] for _ in pools]
        for placement in guess:
            self._add_job(placement, choices[placement.job])
        for pool, intervals, work in zip(pools, self._intervals, self._work, strict=True):
            self._model.add_cumulative([interval for _, interval in intervals], [n for n, _ in intervals], len(pool))
            self._model.add(sum(work) <= len(pool) * self._makespan)  # follows from the others; it tightens the bound
        self._model.minimize(self._makespan)

    def _units(self, seconds: float) -> int:
        return math.ceil(min(seconds / self._unit_s, self._horizon + 1))  # what is longer cannot be chosen anyway

    def _add_job(self, guess: Placement, options: Sequence[Choice]) -> None:
        model = self._model
        start = self._starts[guess.job] = model.new_int_var(0, self._horizon, "")
        model.add_hint(start, self._units(guess.start_s))
        self._chosen[guess.job] = [(option, model.new_bool_var("")) for option in options]
        model.add_exactly_one(chosen for _, chosen in self._chosen[guess.job])
        for option, chosen in self._chosen[guess.job]:
            length = self._units(option.seconds)
            model.add_hint(chosen, option == guess.choice)
            interval = model.new_optional_fixed_size_interval_var(start, length, chosen, "")
            self._intervals[option.pool].append((option.num_devices, interval))
            self._work[option.pool].append(length * option.num_devices * chosen)
            model.add(start + length <= self._makespan).only_enforce_if(chosen)
            if option.devices:
                model.add(start == 0).only_enforce_if(chosen)

    def solve(self, time_limit_s: float) -> tuple[str, float, list[Placement]]:
        """Return status, bound and placements; no placements if none were found in time."""
        from ortools.sat.python import cp_model

        solver = cp_model.CpSolver()
        solver.parameters.num_workers, solver.parameters.random_seed = 1, 0  # workers would race
        solver.parameters.max_deterministic_time = time_limit_s
        status = solver.solve(self._model)
        if status == cp_model.INFEASIBLE:  # nothing ends before the horizon
            return "feasible", (self._horizon + 1 - self._rounded) * self._unit_s, []
        if status not in (cp_model.OPTIMAL, cp_model.FEASIBLE):
            return "feasible", 0.0, []
        picks = [
            (job, option) for job, options in self._chosen.items() for option, chosen in options
            if solver.boolean_value(chosen)
        ]  # fmt: skip
        picks.sort(key=lambda pick: solver.value(self._starts[pick[0]]))
        bound_s = (solver.best_objective_bound - self._rounded) * self._unit_s
        return "optimal" if status == cp_model.OPTIMAL else "feasible", bound_s, place(picks, self._pools)


def _unit_s(seconds: Sequence[float], makespan_s: float) -> float:
    """Return the largest power of two that all times are multiples of, or as fine a one as the solver can count in."""
    unit_s = 2.0 ** math.ceil(math.log2(makespan_s / _NUM_UNITS))
    while all(value % (2 * unit_s) == 0 for value in seconds):
        unit_s *= 2
    return unit_s
