"""The best plan that was found for a workload, and what is proven of it: status, makespan, bound and gap."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal, get_args

from hydrasim.errors import HydraError, PlanError
from hydrasim.mechanism import OURS, Effects, Mechanism
from hydrasim.optimum import cpsat, milp
from hydrasim.optimum.bounds import lower_bounds
from hydrasim.optimum.moves import Moves
from hydrasim.optimum.polish import polish
from hydrasim.optimum.problem import Found, Model, Problem, guess_of, problem_of
from hydrasim.plan import Step
from hydrasim.planning import make_plan
from hydrasim.policies.follow_plan import FollowPlan
from hydrasim.policies.registry import make_policy, policies
from hydrasim.profile import CostModel, StatedCosts
from hydrasim.simulator import simulate

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from hydrasim.cluster import Cluster
    from hydrasim.plan import Plan
    from hydrasim.policies.base import Policy
    from hydrasim.timeline import Timeline
    from hydrasim.workload import Workload

SolverName = Literal["cp-sat", "milp"]
Status = Literal["OPTIMAL", "FEASIBLE"]

SOLVERS: tuple[SolverName, ...] = get_args(SolverName)
TIME_LIMITS_S: dict[SolverName, float] = {"cp-sat": cpsat.TIME_LIMIT_S, "milp": milp.TIME_LIMIT_S}  # by default
PROVEN_FRACTION = 1e-6  # a gap that is rounding; HiGHS proves no finer one
_NUM_SIMULATED = 20  # of a solver's solutions, the best ones
_NUM_TRIALS = 2000  # simulations of neighbours at most
_UNITS_PER_S = 5000  # units that neighbours are simulated with, by second of the limit: less than a second of the clock


@dataclass(frozen=True)
class Optimum:
    """The best plan known, simulated, and how good it is.

    status: "OPTIMAL" where no plan is better, by more than a millionth: makespan and bound meet; else "FEASIBLE".
    makespan_s: of simulating the plan. bounds: in seconds, by the name of the argument, the solver's among them.
    warm_start: the best policy, which the search began with, and its timeline. policies_s: the makespan of every policy
    that can run the workload. model: what the solver was given and said.
    """

    solver: SolverName
    status: Status
    makespan_s: float
    bounds: dict[str, float]
    plan: Plan
    timeline: Timeline
    warm_start: str
    warm_start_timeline: Timeline
    policies_s: dict[str, float]
    model: Model

    @property
    def warm_start_s(self) -> float:
        """The makespan of the best policy."""
        return self.warm_start_timeline.makespan_s

    @property
    def bound_s(self) -> float:
        """What no plan can beat: the largest bound."""
        return sound_bound_s(self.bounds, self.makespan_s)

    @property
    def gap_fraction(self) -> float:
        """The part of the makespan that a better plan could save at most."""
        return 1 - self.bound_s / self.makespan_s if self.makespan_s else 0.0


def find_optimum(
    workload: Workload,
    cluster: Cluster,
    *,
    costs: CostModel | None = None,
    effects: Effects = "theory",
    mechanism: Mechanism = OURS,
    solver: SolverName = "cp-sat",
    time_limit_s: float | None = None,
    pieces_per_job: int = milp.PIECES_PER_JOB,
    seed: int = 0,
    profile_digest: str = "",
    on_solution: Callable[[], None] | None = None,
) -> Optimum:
    """Find the plan of least makespan, or the best one within a limit, and say what is proven of it.

    All policies are simulated first. If the best one meets a lower bound, that is the proof; otherwise the solver
    starts from it, unless the problem is too large for it, and its solutions are simulated too. What is published is
    the best plan that was simulated, under these effects and this mechanism.

    time_limit_s: of the solver; None for its default. With transfers the best plan is polished afterwards, for about as
    long at most, counted in simulated units. pieces_per_job: for "milp" alone. on_solution: called whenever the solver
    finds a better one.

    Raises:
        HydraError: the effects are "noise", where luck has no bound, or the solver knows no such effects; no policy can
            run the workload; or, by a bug of ours, what should be a bound is none.
    """
    if effects == "noise":
        raise HydraError("under noise a plan may beat any bound by luck; ask for the optimum with other effects.")
    if effects != "theory" and solver == "milp":
        raise HydraError("the paper's program knows no transfers; ask for it with effects theory, or for cp-sat.")
    costs = StatedCosts(workload, cluster, pinned=mechanism.pinned) if costs is None else costs
    world = _World(workload, cluster, costs, effects, mechanism, seed, profile_digest)
    planned = _policy_plans(world)
    warm_start = min(planned, key=lambda name: planned[name][1].makespan_s)
    best, bounds = planned[warm_start], lower_bounds(workload, cluster, costs, effects)
    model = Model("the best policy meets a lower bound", "NOT NEEDED")
    limit_s = TIME_LIMITS_S[solver] if time_limit_s is None else time_limit_s
    if not _proven(best[1].makespan_s, bounds):
        problem = problem_of(workload, cluster, costs, pieces_per_job if solver == "milp" else None)
        if refused := _refused(world, problem, solver):
            model = refused
        else:
            found = _solve(world, problem, solver, best[1], limit_s, on_solution)
            model = found.model
            if found.bound_s:
                bounds[solver] = found.bound_s
            best = _best(world, best, _simulated(world, problem, found, solver), bounds, solver, limit_s)
    plan, timeline = best
    proven = _proven(timeline.makespan_s, bounds)
    seconds = {name: made[1].makespan_s for name, made in planned.items()}
    return Optimum(
        solver, "OPTIMAL" if proven else "FEASIBLE", timeline.makespan_s, bounds, plan, timeline,
        warm_start, planned[warm_start][1], seconds, model,
    )  # fmt: skip


def sound_bound_s(bounds: Mapping[str, float], makespan_s: float) -> float:
    """Return the largest bound, but for rounding no more than the makespan.

    Raises:
        HydraError: it is more than a simulated makespan, so it is no bound.
    """
    name = max(bounds, key=bounds.__getitem__)
    if bounds[name] - makespan_s > PROVEN_FRACTION * makespan_s:
        raise HydraError(
            f"the bound {name!r} says that no plan takes less than {bounds[name]} s, yet one takes {makespan_s} s; "
            "this is a bug, please report it."
        )
    return min(makespan_s, bounds[name])


@dataclass(frozen=True)
class _World:
    """Where plans are made and simulated."""

    workload: Workload
    cluster: Cluster
    costs: CostModel
    effects: Effects
    mechanism: Mechanism
    seed: int
    profile_digest: str

    @property
    def transfers(self) -> bool:
        return self.effects != "theory"

    def planned(self, policy: Policy) -> tuple[Plan, Timeline]:
        """Return a policy's plan with its memory and makespan, and the timeline of following it."""
        return make_plan(
            self.workload, self.cluster, policy, costs=self.costs, mechanism=self.mechanism, effects=self.effects,
            seed=self.seed, profile_digest=self.profile_digest,
        )  # fmt: skip

    def makespan_s(self, plan: Plan) -> float:
        """Simulate a plan."""
        timeline = simulate(
            self.workload, self.cluster, FollowPlan(plan), costs=self.costs, mechanism=self.mechanism,
            effects=self.effects, seed=self.seed,
        )  # fmt: skip
        return timeline.makespan_s


def _proven(makespan_s: float, bounds: Mapping[str, float]) -> bool:
    return makespan_s - sound_bound_s(bounds, makespan_s) <= PROVEN_FRACTION * makespan_s


def _policy_plans(world: _World) -> dict[str, tuple[Plan, Timeline]]:
    """Return the plan of every policy that can run the workload, by name.

    Raises:
        HydraError: none can; the first one's reason.
    """
    planned, reasons = {}, []
    for name in policies():
        try:
            planned[name] = world.planned(make_policy(name))
        except HydraError as reason:
            reasons.append(reason)
    if not planned:
        raise reasons[0]
    return planned


def _refused(world: _World, problem: Problem, solver: SolverName) -> Model | None:
    """Return the size of a problem that is too large for the solver, as far as it is known unbuilt, and the reason."""
    if solver == "milp":
        size, reason = milp.size_of(problem), milp.refusal(problem)
        refused = Model(reason, "REFUSED", None, None, size.num_pieces, size.num_variables, size.num_constraints)
    else:
        reason = cpsat.refusal(problem, switching=world.transfers)
        refused = Model(reason, "REFUSED", num_pieces=len(problem.pieces))
    return refused if reason else None


def _solve(
    world: _World,
    problem: Problem,
    solver: SolverName,
    timeline: Timeline,
    limit_s: float,
    on_solution: Callable[[], None] | None,
) -> Found:
    guess = guess_of(problem, timeline)
    if solver == "milp":
        return milp.solve(problem, guess, limit_s)
    moves = None
    if world.transfers:
        moves = Moves(problem, world.workload, world.cluster, world.costs, prefetch=world.mechanism.prefetch)
    return cpsat.solve(problem, guess, timeline.makespan_s, limit_s, moves, on_solution)


def _simulated(world: _World, problem: Problem, found: Found, name: str) -> list[tuple[Plan, Timeline]]:
    """Return the solver's best solutions as plans, simulated.

    A solver that counts in floats may hand over an order in which units wait for each other; that one is left out.
    """
    made = []
    for placed in found.solutions[-_NUM_SIMULATED:]:
        plan = problem.plan(placed, world.workload, world.cluster, name)
        try:
            made.append(world.planned(FollowPlan(plan)))
        except PlanError:
            continue
    return made


def _best(
    world: _World,
    start: tuple[Plan, Timeline],
    made: Sequence[tuple[Plan, Timeline]],
    bounds: Mapping[str, float],
    name: str,
    limit_s: float,
) -> tuple[Plan, Timeline]:
    """Return the best plan, polished where transfers may leave something to gain; named if it is better than the start.

    start: what the solver began with. made: what it found. limit_s: bounds the polishing, by what it simulates and not
    by the clock, so that the same input always gives the same plan.
    """
    plan, timeline = min([start, *made], key=lambda plan: plan[1].makespan_s)
    if world.transfers and not _proven(timeline.makespan_s, bounds):
        bare = replace(plan, devices=tuple(tuple(Step(s.unit) for s in steps) for steps in plan.devices))
        num_trials = min(_NUM_TRIALS, int(limit_s * _UNITS_PER_S / world.workload.num_units))
        polished = world.planned(FollowPlan(polish(bare, world.makespan_s, max(bounds.values()), num_trials)))
        if polished[1].makespan_s < timeline.makespan_s:
            plan, timeline = polished
    return (replace(plan, policy=name), timeline) if timeline.makespan_s < start[1].makespan_s else start
