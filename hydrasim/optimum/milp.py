"""The optimum by the paper's mixed-integer program, on HiGHS, with the variable that the printed one lacks.

As printed there is nothing that says which device runs a unit, so that every unit occupies every device, and the
program's optimum is the time of all work on one device. Here z[i, p] says it, a unit has one start x[i], and the
disjunction of two units is switched off where they are on different devices:

    min C      C >= x[i] + S[i]                                                       S[i] = sum_p z[i, p] s[i, p]
               sum_p z[i, p] = 1                                                      one device
               x[i] >= x[i - 1] + S[i - 1]                                            one job's units in order
               x[i] >= x[j] + s[j, p] - U y[i, j]       - U (2 - z[i, p] - z[j, p])   j first, if y = 0
               x[j] >= x[i] + s[i, p] - U (1 - y[i, j]) - U (2 - z[i, p] - z[j, p])   i first, if y = 1

Source: section 4.7.1 and Table 1 of the paper, there solved by Gurobi in 100 s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

from hydrasim.optimum.problem import Found, Model, ModelStatus, Placed, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import highspy

PIECES_PER_JOB = 40
TIME_LIMIT_S = 100.0
MAX_CONSTRAINTS = 400_000  # eight jobs of 40 pieces on four devices; HiGHS takes a gigabyte for them
_TOLERANCE = 1e-9  # of constraints and of binaries; the default lets a makespan be 1e-6 too short
_DIGITS = 7  # of starts that mean something
_STATUS: dict[str, ModelStatus] = {"kOptimal": "OPTIMAL", "kInfeasible": "INFEASIBLE"}


@dataclass(frozen=True)
class Size:
    """How large the program is."""

    num_pieces: int
    num_variables: int
    num_constraints: int

    def __str__(self) -> str:
        return f"{self.num_pieces:,} pieces, {self.num_variables:,} variables and {self.num_constraints:,} constraints"


def size_of(problem: Problem) -> Size:
    """Count the program's variables and constraints before it is built."""
    count, devices = len(problem.pieces), problem.num_devices
    pairs = sum(len(a) * len(b) for a, b in combinations(problem.chains, 2))
    return Size(count, 1 + count * (1 + devices) + pairs, 2 * count + 2 * devices * pairs)


def refusal(problem: Problem) -> str:
    """Return why the solver has no chance: the size that it would get and the limit; "" if it has one."""
    size = size_of(problem)
    if size.num_constraints <= MAX_CONSTRAINTS:
        return ""
    return f"the program would have {size}; at most {MAX_CONSTRAINTS:,} constraints are tried"


def solve(
    problem: Problem, guess: Sequence[Placed], time_limit_s: float = TIME_LIMIT_S, *, warm_start: bool = True
) -> Found:
    """Search for the least makespan of the pieces, starting from a guess in a possible order.

    Pieces of several units start from longest-remaining-time first instead, as no policy's plan keeps them whole.

    The bound is one of all plans only where each piece is a single unit: pieces are kept whole, which plans need not.
    time_limit_s: by the clock, since HiGHS has no other; a search that ends before it is deterministic. It is HiGHS's
    own: building the program comes before, and it looks at its clock between steps, which take long in large programs.
    warm_start: False keeps the start from the solver, as the paper's had none: neither as a solution, nor as the
    makespan that others must not exceed. Its horizon is then all work in turn, which any plan can keep to.
    """
    import highspy

    columns, whole = _Columns(problem), all(len(piece.units) == 1 for piece in problem.pieces)
    highs = _solver(time_limit_s)
    if warm_start:
        starts = _in_order(problem, guess) if whole else _longest_first(problem)
        unit_s = max(start + problem.pieces[i].seconds[device] for i, (start, device) in starts.items())
        _build(highs, problem, columns, unit_s)
        _hint(highs, columns, starts, unit_s)
    else:
        unit_s = _in_turn_s(problem)
        _build(highs, problem, columns, unit_s)
    highs.run()
    info, values = highs.getInfo(), highs.getSolution().col_value
    found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    status = _STATUS.get(highs.getModelStatus().name, "FEASIBLE" if found else "UNKNOWN")
    size, bound_s = size_of(problem), max(0.0, info.mip_dual_bound) * unit_s
    statement = "units of a job in order, one a device at a time, each start apart from its device; " + (
        "its bound is one of all plans"
        if whole
        else f"each job's units put together into at most {max(map(len, problem.chains))} pieces that stay whole, "
        "of the same seconds in all, on the same devices; its bound is one of plans that keep them whole"
    )
    makespan_s = info.objective_function_value * unit_s if found else None
    model = Model(
        statement, status, makespan_s, bound_s, size.num_pieces, size.num_variables, size.num_constraints
    )  # fmt: skip
    return Found(model, bound_s if whole else 0.0, (_placed(problem, columns, values, unit_s),) if found else ())


def _in_turn_s(problem: Problem) -> float:
    """Return what all pieces take one after another, each on its slowest device, once all jobs are there."""
    return max(piece.release_s for piece in problem.pieces) + sum(max(piece.seconds) for piece in problem.pieces)


def _solver(time_limit_s: float) -> highspy.Highs:
    """Return a solver that prints nothing, not even the banner of HiGHS 1.16, which its constructor has printed."""
    import highspy

    class Quiet(highspy.Highs):
        def enableCallbacks(self) -> None:  # noqa: N802 - the constructor's first call
            self.setOptionValue("output_flag", False)
            super().enableCallbacks()  # type: ignore[no-untyped-call]

    highs = Quiet()  # type: ignore[no-untyped-call]
    for option in ("primal_feasibility_tolerance", "mip_feasibility_tolerance"):
        highs.setOptionValue(option, _TOLERANCE)
    highs.setOptionValue("output_flag", False)
    highs.setOptionValue("threads", 1)
    highs.setOptionValue("random_seed", 0)
    highs.setOptionValue("time_limit", time_limit_s)
    highs.setOptionValue("mip_rel_gap", 0.0)
    return highs


class _Columns:
    """Where each variable is among the columns: C, then x, then z by piece and device, then y by pair."""

    def __init__(self, problem: Problem) -> None:
        count, devices = len(problem.pieces), problem.num_devices
        self.makespan = 0
        self.start = range(1, 1 + count)
        self.on = [range(1 + count + i * devices, 1 + count + (i + 1) * devices) for i in range(count)]
        chains = combinations(problem.chains, 2)
        self.pairs = [(i, j) for first, second in chains for i in first for j in second]
        self.num = 1 + count * (1 + devices) + len(self.pairs)
        self.first = range(self.num - len(self.pairs), self.num)


def _build(highs: highspy.Highs, problem: Problem, columns: _Columns, unit_s: float) -> None:
    """Hand the program to HiGHS in units of the horizon: U is 1, and tolerances mean the same everywhere.

    unit_s: the horizon, the longest makespan that is looked for.
    """
    import highspy
    import numpy as np

    program = highspy.HighsLp()
    program.num_col_ = columns.num
    program.col_cost_ = np.eye(1, columns.num, columns.makespan)[0]
    releases = [piece.release_s / unit_s for piece in problem.pieces]
    binaries = columns.num - 1 - len(releases)
    program.col_lower_ = np.array([0.0, *releases, *[0.0] * binaries])
    program.col_upper_ = np.ones(columns.num)
    kinds = [highspy.HighsVarType.kContinuous] * (1 + len(releases)) + [highspy.HighsVarType.kInteger] * binaries
    program.integrality_ = kinds
    rows = list(_rows(problem, columns, unit_s))
    program.num_row_ = len(rows)
    program.row_lower_ = np.array([least for least, _, _ in rows])
    program.row_upper_ = np.array([most for _, most, _ in rows])
    program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
    program.a_matrix_.start_ = np.cumsum([0, *(len(terms) for _, _, terms in rows)])
    program.a_matrix_.index_ = np.array([column for _, _, terms in rows for column, _ in terms])
    program.a_matrix_.value_ = np.array([factor for _, _, terms in rows for _, factor in terms])
    highs.passModel(program)


def _rows(problem: Problem, columns: _Columns, unit_s: float) -> Iterator[tuple[float, float, list[tuple[int, float]]]]:
    """Yield the rows of the program: least, most, and the terms between them."""
    inf = math.inf
    for on in columns.on:
        yield 1.0, 1.0, [(column, 1.0) for column in on]
    for chain in problem.chains:
        for index, follower in zip(chain, (*(columns.start[i] for i in chain[1:]), columns.makespan), strict=True):
            lengths = zip(columns.on[index], (-s / unit_s for s in problem.pieces[index].seconds), strict=True)
            yield 0.0, inf, [(follower, 1.0), (columns.start[index], -1.0), *lengths]
    for (i, j), y in zip(columns.pairs, columns.first, strict=True):
        for device in range(problem.num_devices):
            apart = [(columns.on[i][device], -1.0), (columns.on[j][device], -1.0)]
            first, second = (problem.pieces[index].seconds[device] / unit_s for index in (i, j))
            yield second - 2.0, inf, [(columns.start[i], 1.0), (columns.start[j], -1.0), (y, 1.0), *apart]
            yield first - 3.0, inf, [(columns.start[j], 1.0), (columns.start[i], -1.0), (y, -1.0), *apart]


def _in_order(problem: Problem, guess: Sequence[Placed]) -> dict[int, tuple[float, int]]:
    """Return start and device of every piece, run in the order of the guess as early as can be."""
    board, positions = _Board(problem), [piece.position for piece in problem.pieces]
    for index, device, _ in sorted(guess, key=lambda item: (item.start, positions[item.piece])):
        board.put(index, device)
    return board.starts


def _longest_first(problem: Problem) -> dict[int, tuple[float, int]]:
    """Return start and device of every piece where the job with most work left goes first, on the first free device."""
    board, left = _Board(problem), [list(chain) for chain in problem.chains]
    least = [min(piece.seconds) for piece in problem.pieces]
    while any(left):
        device = min(range(problem.num_devices), key=board.free.__getitem__)
        ready = min(board.ready_s(chain[0]) for chain in left if chain)
        now_s = max(ready, board.free[device])
        able = [chain for chain in left if chain and board.ready_s(chain[0]) <= now_s]
        board.put(max(able, key=lambda chain: sum(least[i] for i in chain)).pop(0), device)
    return board.starts


class _Board:
    """When each device is free and each job's last piece is over. starts: of the pieces that were put on it."""

    def __init__(self, problem: Problem) -> None:
        self._pieces = problem.pieces
        self.free = [0.0] * problem.num_devices
        self._ends: dict[str, float] = {}
        self.starts: dict[int, tuple[float, int]] = {}

    def ready_s(self, index: int) -> float:
        return self._ends.get(self._pieces[index].job, self._pieces[index].release_s)

    def put(self, index: int, device: int) -> None:
        start_s = max(self.free[device], self.ready_s(index))
        self.starts[index] = start_s, device
        self.free[device] = self._ends[self._pieces[index].job] = start_s + self._pieces[index].seconds[device]


def _hint(highs: highspy.Highs, columns: _Columns, starts: dict[int, tuple[float, int]], unit_s: float) -> None:
    """Hand over the guess as a first solution."""
    import highspy

    values = [0.0] * columns.num
    values[columns.makespan] = 1.0
    for index, (start, device) in starts.items():
        values[columns.start[index]] = start / unit_s
        values[columns.on[index][device]] = 1.0
    for (i, j), y in zip(columns.pairs, columns.first, strict=True):
        values[y] = float((starts[i][0], i) < (starts[j][0], j))
    solution = highspy.HighsSolution()
    solution.col_value = values
    highs.setSolution(solution)


def _placed(problem: Problem, columns: _Columns, values: Sequence[float], unit_s: float) -> tuple[Placed, ...]:
    starts = [round(values[column], _DIGITS) * unit_s for column in columns.start]
    devices = [max(range(problem.num_devices), key=lambda d: values[on[d]]) for on in columns.on]
    return tuple(Placed(index, *where) for index, where in enumerate(zip(devices, starts, strict=True)))
