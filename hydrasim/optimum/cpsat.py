"""The optimum by constraint programming: every unit an interval, on OR-Tools' CP-SAT.

Without transfers the problem is the simulator's own under effects "theory", so a plan proven here is the best plan.
With them it is the relaxation of `hydrasim.optimum.switching`, and the bound proven is one of all plans.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

from hydrasim.optimum.problem import Found, Model, ModelStatus, Placed, Problem, tick_s, ticks
from hydrasim.optimum.switching import STATEMENT, add_switching

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ortools.sat.python import cp_model

    from hydrasim.optimum.moves import Moves

TIME_LIMIT_S = 60.0  # by default
MAX_INTERVALS = 10_000  # without switch times; CP-SAT takes about a kilobyte and 30 us each to read
MAX_SWITCHING_INTERVALS = 300  # with them every pair of units has an order; beyond, nothing is proven in minutes


def solve(
    problem: Problem,
    guess: Sequence[Placed],
    makespan_s: float,
    time_limit_s: float,
    moves: Moves | None = None,
    on_solution: Callable[[], None] | None = None,
) -> Found:
    """Search for the least makespan, starting from a guess: where and when a simulation ran each piece.

    makespan_s: what the guess came to; longer ones are not looked for. moves: the switch times, if any.
    time_limit_s: in the solver's deterministic time, one to five seconds each: it counts operations, and not the
    clock, so that the same input always gives the same answer.
    """
    model = CpModel(problem, guess, makespan_s, moves)
    return model.solve(time_limit_s, on_solution)


def refusal(problem: Problem, *, switching: bool) -> str:
    """Return why the solver has no chance: the size that it would get and the limit; "" if it has one."""
    places = problem.num_devices if switching else len(problem.groups)
    num_intervals, most = len(problem.pieces) * places, MAX_SWITCHING_INTERVALS if switching else MAX_INTERVALS
    if num_intervals <= most:
        return ""
    pairs = len(problem.pieces) ** 2 // 2 * places
    size = f", and {pairs:,} ordered pairs of them" if switching else ""
    return (
        f"CP-SAT would get {num_intervals:,} intervals ({len(problem.pieces):,} units on {places} "
        f"{'devices' if switching else 'kinds of devices'}){size}; {'with' if switching else 'without'} switch times "
        f"at most {most:,} are tried"
    )


class CpModel:
    """The problem in whole ticks. All times are rounded down, so that what is proven holds for the true ones; and as
    floor(a) + floor(b) <= floor(a + b), every true schedule stays one.

    Devices that are alike are one place where as many pieces run at once as there are devices: any such set of
    intervals can be dealt out to them. With switch times every device is a place of its own.
    """

    def __init__(self, problem: Problem, guess: Sequence[Placed], makespan_s: float, moves: Moves | None) -> None:
        from ortools.sat.python import cp_model

        self.problem, self.model, self._moves = problem, cp_model.CpModel(), moves
        self.places = problem.groups if moves is None else tuple((d,) for d in range(problem.num_devices))
        seconds = [s for piece in problem.pieces for s in (*piece.seconds, piece.release_s)]
        end_s = max(item.start + problem.pieces[item.piece].seconds[item.device] for item in guess)
        least_s = max(makespan_s, end_s)
        self.tick_s = tick_s([*seconds, *(moves.seconds if moves else ())], least_s)
        self.sizes = [[self.ticks(piece.seconds[place[0]]) for place in self.places] for piece in problem.pieces]
        self.horizon = -self.ticks(-least_s)  # rounded up, as what is rounded down may lack a tick in sum
        self._add_pieces()
        if moves is not None:
            add_switching(self, moves)
        self._hint(guess)
        self.model.minimize(self.makespan)

    def ticks(self, seconds: float) -> int:
        """Return whole ticks, rounded down."""
        return ticks(seconds, self.tick_s)

    def _place_of(self, device: int) -> int:
        return next(index for index, place in enumerate(self.places) if device in place)

    def _add_pieces(self) -> None:
        """Add an interval for every piece on every place, what a place can run at once, and the order of chains."""
        model, problem = self.model, self.problem
        self.makespan = model.new_int_var(0, self.horizon, "makespan")
        self.start = [model.new_int_var(self.ticks(p.release_s), self.horizon, "") for p in problem.pieces]
        self.runs_on: list[list[cp_model.IntVar]] = []  # by piece and place
        self.end: list[cp_model.LinearExprT] = []
        intervals: list[list[cp_model.IntervalVar]] = [[] for _ in self.places]
        for piece, sizes in enumerate(self.sizes):
            here = [model.new_bool_var("") for _ in sizes]
            model.add_exactly_one(here)
            self.runs_on.append(here)
            end = self.start[piece] + sizes[0]
            if len(set(sizes)) > 1:
                end = model.new_int_var(0, self.horizon, "")
                length = sum(size * there for size, there in zip(sizes, here, strict=True))
                model.add(end == self.start[piece] + length)
            self.end.append(end)
            for index, size in enumerate(sizes):
                interval = model.new_optional_fixed_size_interval_var(self.start[piece], size, here[index], "")
                intervals[index].append(interval)
        for index, place in enumerate(self.places):
            there = intervals[index]
            if len(place) == 1:
                model.add_no_overlap(there)
            else:
                model.add_cumulative(there, [1] * len(there), len(place))
            # follows from the others; it tightens the bound
            work = sum(sizes[index] * here[index] for sizes, here in zip(self.sizes, self.runs_on, strict=True))
            model.add(work <= len(place) * self.makespan)
        for chain in problem.chains:
            for before, after in pairwise(chain):
                model.add(self.start[after] >= self.end[before])
            model.add(self.makespan >= self.end[chain[-1]])

    def _hint(self, guess: Sequence[Placed]) -> None:
        for item in guess:
            self.model.add_hint(self.start[item.piece], self.ticks(item.start))
            for place, here in enumerate(self.runs_on[item.piece]):
                self.model.add_hint(here, place == self._place_of(item.device))

    def solve(self, time_limit_s: float, on_solution: Callable[[], None] | None) -> Found:
        from ortools.sat.python import cp_model

        solver, seen = cp_model.CpSolver(), _Solutions(self, on_solution)
        solver.parameters.num_workers, solver.parameters.random_seed = 1, 0  # workers would race
        solver.parameters.max_deterministic_time = time_limit_s
        if self._moves is not None:
            solver.parameters.linearization_level = 2  # routes through switch times are bounded by linear programs
        status: ModelStatus = solver.status_name(solver.solve(self.model, seen.callback()))  # type: ignore[assignment]
        solved = bool(seen.found)
        bound_s = max(0.0, solver.best_objective_bound) * self.tick_s if status in ("OPTIMAL", "FEASIBLE") else 0.0
        proto = self.model.proto
        statement = "every unit once, units of a job in order, one unit a device at a time"
        statement += STATEMENT if self._moves else "; its bound is one of all plans"
        return Found(
            Model(
                statement, status, solver.objective_value * self.tick_s if solved else None, bound_s,
                len(self.problem.pieces), len(proto.variables), len(proto.constraints), self.tick_s,
            ),
            bound_s,
            tuple(seen.found),
        )  # fmt: skip

    def dealt(self, value: Callable[[cp_model.IntVar], int]) -> tuple[Placed, ...]:
        """Deal the pieces of each place out to its devices: each to the one that is free first."""
        at = [value(start) for start in self.start]
        where = [next(p for p, here in enumerate(places) if value(here)) for places in self.runs_on]
        free = [0] * self.problem.num_devices
        placed = []
        order = range(len(at))
        positions = [piece.position for piece in self.problem.pieces]
        for index in sorted(order, key=lambda i: (at[i], at[i] + self.sizes[i][where[i]], positions[i])):
            device = min(self.places[where[index]], key=free.__getitem__)
            free[device] = at[index] + self.sizes[index][where[index]]
            placed.append(Placed(index, device, at[index] * self.tick_s))
        return tuple(placed)


class _Solutions:
    """Keeps every solution that the solver finds on its way: with switch times a worse one may simulate better."""

    def __init__(self, model: CpModel, on_solution: Callable[[], None] | None) -> None:
        self._model, self._on_solution = model, on_solution
        self.found: list[tuple[Placed, ...]] = []

    def callback(self) -> cp_model.CpSolverSolutionCallback:
        from ortools.sat.python import cp_model

        outer = self

        class Callback(cp_model.CpSolverSolutionCallback):
            def on_solution_callback(self) -> None:
                outer.found.append(outer._model.dealt(self.value))
                if outer._on_solution is not None:
                    outer._on_solution()

        return Callback()
