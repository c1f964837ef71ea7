"""Switch times for CP-SAT: loads, stores and memory, as no plan can avoid them, added to the problem without transfers.

It is a relaxation of the simulated world: everything stated here holds in any simulation with transfers, under any
policy and any mechanism that looks as far ahead, and what is left out (the optimizer's half of a state whose forward
loaded the parameters alone, copies of boundaries on the lanes, where blocks lie, contention, dispatch) only adds to it.
So its bound is one of all plans. Its solutions are orders of units, whose makespan the simulator tells.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

    from hydrasim.optimum.cpsat import CpModel
    from hydrasim.optimum.moves import Moves

    Intervals = list[list[cp_model.IntervalVar]]  # by device

STATEMENT = (
    "; a state is loaded on its device's lane before a unit that needs it, unless it has stayed there, in memory that "
    "others fill meanwhile; a device prefetches for one unit; an update is stored before it is lost, used elsewhere or "
    "final; a relaxation, so its bound is one of all plans"
)


def add_switching(base: CpModel, moves: Moves) -> None:
    """Add the switch times to a model whose places are single devices."""
    _Switching(base, moves)


class _Switching:
    """Holds what the constraints share: who is first, which updates are stored, and each device's intervals."""

    def __init__(self, base: CpModel, moves: Moves) -> None:
        self._base, self._model, self._moves = base, base.model, moves
        self._on, self._start, self._end = base.runs_on, base.start, base.end
        self._units, self._devices = range(len(moves.units)), range(len(base.places))
        self._loads: Intervals = [[] for _ in self._devices]
        self._stores: Intervals = [[] for _ in self._devices]
        self._busy: Intervals = [[] for _ in self._devices]
        self._switches: Intervals = [[] for _ in self._devices]
        self._switching: list[list[cp_model.LinearExprT]] = [[] for _ in self._devices]  # ticks
        self._memory: list[list[tuple[cp_model.IntervalVar, int]]] = [[] for _ in self._devices]
        self._stored: dict[int, tuple[cp_model.LiteralT, cp_model.LinearExprT]] = {}  # by update: whether, and its end
        self._bound: list[cp_model.IntVar] = []  # when a device begins to be busy with a unit
        self._add_orders()
        for j in self._units:
            self._add_times(j)
            self._add_store(j)
            self._add_loads(j)
        self._add_limits()
        for group in base.problem.groups:  # of devices that are alike, the first one runs the first unit
            for d in group[1:]:
                self._model.add(self._on[0][d] == 0)

    def _add_orders(self) -> None:
        """Say of every two units on one device which is first, and what of the second's load is left then."""
        pieces, ticks, on = self._base.problem.pieces, self._base.ticks, self._on
        for i in self._units:
            for j in range(i + 1, len(pieces)):
                orders: list[tuple[int, int, list[cp_model.LiteralT]]] = [(i, j, [])]
                if pieces[i].job != pieces[j].job:
                    first = self._model.new_bool_var("")
                    orders = [(i, j, [first]), (j, i, [first.negated()])]
                for before, after, literals in orders:
                    for d in self._devices:
                        rest = ticks(self._moves.rest_s[d][before][after])
                        if rest or literals:
                            gap = self._model.add(self._start[after] >= self._end[before] + rest)
                            gap.only_enforce_if([on[i][d], on[j][d], *literals])

    def _add_times(self, j: int) -> None:
        """Add what lies between a unit and the one before it in its job: a boundary's hop, or a fetch."""
        moves, model, ticks = self._moves, self._model, self._base.ticks
        bound = model.new_int_var(ticks(self._base.problem.pieces[j].release_s), self._base.horizon, "")
        model.add(bound <= self._start[j])
        before, fetched = moves.follows(j), moves.fetched_after(j)
        if before is not None:
            model.add(bound >= self._bound[before])
        self._bound.append(bound)
        for d, here in enumerate(self._on[j]):
            model.add(self._start[j] >= ticks(moves.begin_s[j][d])).only_enforce_if(here)
            if before is not None and (hop := ticks(moves.hop_s[j][d])):
                hopped = model.add(self._start[j] >= self._end[before] + hop)
                hopped.only_enforce_if([self._on[before][d], here.negated()])
        if fetched is not None:
            model.add(self._start[j] >= self._end[fetched] + ticks(moves.fetch_s[j]))

    def _add_store(self, j: int) -> None:
        """Give every update a store on the lane of its device, to happen where others demand it."""
        if not self._moves.updates(j):
            return
        model, last = self._model, self._moves.is_last_update(j)
        stored = model.new_bool_var("")
        start = model.new_int_var(0, self._base.horizon, "")
        model.add(start >= self._end[j])
        end: cp_model.LinearExprT = start
        for d, here in enumerate(self._on[j]):
            size = self._base.ticks(self._moves.store_s[j][d])
            present = here if last else model.new_bool_var("")
            model.add_implication(present, here)
            model.add_bool_or([present, here.negated(), stored.negated()])
            self._stores[d].append(model.new_optional_fixed_size_interval_var(start, size, present, ""))
            end = end + size * present
        if last:
            model.add(stored == 1)
            model.add(self._base.makespan >= end)
        self._stored[j] = stored, end

    def _add_loads(self, j: int) -> None:
        """Have a unit's state loaded on a device that no unit since its last update can have left it on.

        Where one can have, it is loaded again, or its block takes up room all the while.
        """
        moves, model = self._moves, self._model
        update, holders = moves.version(j)
        for d, here in enumerate(self._on[j]):
            size = self._base.ticks(moves.load_s[j][d])
            loads = model.new_bool_var("") if holders else here
            start = model.new_int_var(0, self._base.horizon, "")
            self._loads[d].append(model.new_optional_fixed_size_interval_var(start, size, loads, ""))
            model.add(start + size <= self._start[j]).only_enforce_if(loads)
            model.add(start >= self._bound[j]).only_enforce_if(loads)
            self._add_switch(j, d, loads, start, size)
            elsewhere = [here, *(self._on[h][d].negated() for h in holders)]
            model.add_bool_or([loads, *(literal.negated() for literal in elsewhere)])
            if update is not None:
                stored, stored_end = self._stored[update]
                model.add(start >= stored_end).only_enforce_if(elsewhere)
                model.add_bool_or([stored, *(literal.negated() for literal in elsewhere)])
            for order, h in enumerate(holders):
                later = [self._on[other][d] for other in holders[:order]]
                stays = model.new_bool_var("")
                model.add_bool_or([stays, loads, here.negated(), self._on[h][d].negated(), *later])
                size_of_stay = model.new_int_var(0, self._base.horizon, "")
                stay = model.new_optional_interval_var(self._end[h], size_of_stay, self._start[j], stays, "")
                self._memory[d].append((stay, moves.state_blocks[j]))

    def _add_switch(self, j: int, d: int, loads: cp_model.IntVar, start: cp_model.IntVar, size: int) -> None:
        """Have no unit compute on a device during the last part of a load, where it has no room beside any other unit.

        This follows from what is between pairs of units; together they tighten the bound.
        """
        rest = min((self._base.ticks(self._moves.rest_s[d][i][j]) for i in self._moves.others(j)), default=0)
        if rest := min(rest, size):
            switch = self._model.new_optional_fixed_size_interval_var(start + size - rest, rest, loads, "")
            self._switches[d].append(switch)
            self._switching[d].append(rest * loads)

    def _one_state(self, d: int) -> bool:
        """Tell whether a device has no room for two states, so that every change of state costs."""
        rest = self._moves.rest_s[d]
        return all(rest[i][j] for j in self._units for i in self._moves.others(j))

    def _route(self, d: int) -> list[cp_model.LinearExprT]:
        """Say which unit follows which on a device, from its first load to its last store; return what that costs."""
        model, moves, ticks = self._model, self._moves, self._base.ticks
        pieces = self._base.problem.pieces
        arcs: list[tuple[int, int, cp_model.LiteralT]] = [(0, 0, model.new_bool_var(""))]  # 0: before and after all
        costs: list[cp_model.LinearExprT] = []
        for j in self._units:
            first, last = model.new_bool_var(""), model.new_bool_var("")
            arcs += [(j + 1, j + 1, self._on[j][d].negated()), (0, j + 1, first), (j + 1, 0, last)]
            costs += [ticks(moves.load_s[j][d]) * first, ticks(moves.store_s[j][d]) * last]
            for i in self._units:
                if i != j and not (pieces[i].job == pieces[j].job and i > j):
                    next_one = model.new_bool_var("")
                    arcs.append((i + 1, j + 1, next_one))
                    rest = ticks(moves.rest_s[d][i][j])
                    model.add(self._start[j] >= self._end[i] + rest).only_enforce_if(next_one)
                    costs.append(rest * next_one)
        model.add_circuit(arcs)
        return costs

    def _add_limits(self) -> None:
        """Let lanes do one thing at a time, and devices hold what fits them."""
        moves, model = self._moves, self._model
        for d in self._devices:
            model.add_no_overlap(self._loads[d])
            model.add_no_overlap(self._stores[d])
            work = [sizes[d] * here[d] for sizes, here in zip(self._base.sizes, self._on, strict=True)]
            model.add(sum([*work, *self._switching[d]]) <= self._base.makespan)
            if self._one_state(d):
                model.add(sum([*work, *self._route(d)]) <= self._base.makespan)
            for j in self._units:
                here, size = self._on[j][d], self._base.sizes[j][d]
                runs = model.new_optional_fixed_size_interval_var(self._start[j], size, here, "")
                self._memory[d].append((runs, moves.unit_blocks[j]))
                self._switches[d].append(runs)
                length = model.new_int_var(0, self._base.horizon, "")
                busy = model.new_optional_interval_var(self._bound[j], length, self._start[j] + size, here, "")
                self._busy[d].append(busy)
            model.add_no_overlap(self._switches[d])
            demands = [blocks for _, blocks in self._memory[d]]
            model.add_cumulative([interval for interval, _ in self._memory[d]], demands, moves.room[d])
            if moves.depth is not None:
                model.add_cumulative(self._busy[d], [1] * len(self._busy[d]), moves.depth)
