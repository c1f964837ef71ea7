"""The scheduling problem that the solvers see: chains of pieces, seconds by device, time in whole ticks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

from hydrasim.dag import Templates
from hydrasim.errors import HydraError
from hydrasim.plan import Plan, Step
from hydrasim.workload import ShardUnit, TrainingJob, Workload

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from hydrasim.cluster import Cluster
    from hydrasim.profile import CostModel
    from hydrasim.timeline import Timeline

ModelStatus = Literal["OPTIMAL", "FEASIBLE", "UNKNOWN", "INFEASIBLE", "NOT NEEDED", "REFUSED"]

_MAX_TICKS = 1 << 18  # of a horizon whose seconds have no common measure; with more, proofs take long
_MAX_DENOMINATOR = 10**6
_ROUNDING = 1e-6  # of a tick: what sums of floats may lack


class Placed(NamedTuple):
    """Where and when a solver has a piece run; pieces are named by their index in the problem."""

    piece: int
    device: int
    start: float


@dataclass(frozen=True)
class Piece:
    """Consecutive units of a job that run together on one device; most often a single unit.

    position: in the job's chain. seconds: by device. release_s: when its job arrives.
    """

    units: tuple[ShardUnit, ...]
    position: int
    seconds: tuple[float, ...]
    release_s: float

    @property
    def job(self) -> str:
        return self.units[0].job


@dataclass(frozen=True)
class Problem:
    """All pieces of a workload on a cluster, job by job, each job's in order.

    groups: the devices that are alike, as the solver may exchange them.
    """

    pieces: tuple[Piece, ...]
    groups: tuple[tuple[int, ...], ...]

    @property
    def num_devices(self) -> int:
        return sum(map(len, self.groups))

    @cached_property
    def chains(self) -> tuple[tuple[int, ...], ...]:
        """The pieces of each job, in order, by index."""
        chains: dict[str, list[int]] = {}
        for index, piece in enumerate(self.pieces):
            chains.setdefault(piece.job, []).append(index)
        return tuple(map(tuple, chains.values()))

    def plan(self, placed: Iterable[Placed], workload: Workload, cluster: Cluster, name: str) -> Plan:
        """Return the plan that runs every device's pieces in the order of their starts.

        Of pieces that start together the one that ends first is first, then the one earlier in its chain, so that the
        orders of all devices go together even where units take no time.
        """
        ends = {item: item.start + self.pieces[item.piece].seconds[item.device] for item in placed}
        steps: list[list[Step]] = [[] for _ in cluster.devices]
        for item in sorted(ends, key=lambda item: (item.start, ends[item], self.pieces[item.piece].position)):
            steps[item.device] += map(Step, self.pieces[item.piece].units)
        return Plan(tuple(map(tuple, steps)), workload.digest, cluster.digest, policy=name)


@dataclass(frozen=True)
class Model:
    """What a solver was given and what it said.

    statement: the problem in words, and what its bound is a bound of. status: the solver's own, of the model;
    "NOT NEEDED" where a bound proved the warm start, "REFUSED" where the problem is too large for the solver, with the
    reason in the statement. makespan_s and bound_s: of the model. resolution_s: its tick.
    """

    statement: str
    status: ModelStatus
    makespan_s: float | None = None
    bound_s: float | None = None
    num_pieces: int = 0
    num_variables: int = 0
    num_constraints: int = 0
    resolution_s: float = 0.0


@dataclass(frozen=True)
class Found:
    """A solver's answer. bound_s: what it proves of all plans. solutions: best last; they are still to be simulated.

    Raises:
        HydraError: the solver says that there is no plan, so what it was given is no relaxation.
    """

    model: Model
    bound_s: float
    solutions: tuple[tuple[Placed, ...], ...]

    def __post_init__(self) -> None:
        if self.model.status == "INFEASIBLE":
            raise HydraError(
                "the solver says that there is no plan, yet a policy made one; this is a bug, please report it."
            )


def problem_of(workload: Workload, cluster: Cluster, costs: CostModel, pieces_per_job: int | None = None) -> Problem:
    """Return a workload's problem, each job's units put together into at most so many pieces of about equal seconds."""
    pieces = [piece for job in workload.jobs for piece in _pieces(job, cluster, costs, pieces_per_job)]
    groups: dict[tuple[object, ...], list[int]] = {}
    for index, device in enumerate(cluster.devices):
        groups.setdefault((device, *(piece.seconds[index] for piece in pieces)), []).append(index)
    return Problem(tuple(pieces), tuple(map(tuple, groups.values())))


def chain_of(job: TrainingJob) -> list[ShardUnit]:
    """Return all units of a job in the order in which they run."""
    templates = Templates.of_job(job)
    return [
        ShardUnit(job.name, *node, minibatch)
        for minibatch in range(job.num_minibatches)
        for node in templates.of(minibatch).nodes
    ]


def tick_s(seconds: Iterable[float], horizon_s: float) -> float:
    """Return the largest time that all seconds are multiples of, or as fine a one as is worth counting in."""
    values = {value for value in seconds if value}
    coarsest = horizon_s / _MAX_TICKS
    fractions = [Fraction(value).limit_denominator(_MAX_DENOMINATOR) for value in values]
    if not values or any(float(f) != value for f, value in zip(fractions, values, strict=True)):
        return coarsest or 1.0
    shared = math.lcm(*(f.denominator for f in fractions))
    exact = Fraction(math.gcd(*(int(f * shared) for f in fractions)), shared)
    return max(float(exact), coarsest)


def ticks(seconds: float, tick: float) -> int:
    """Return whole ticks, rounded down: what is proved of shorter pieces holds for the true ones."""
    return math.floor(seconds / tick + _ROUNDING)


def guess_of(problem: Problem, timeline: Timeline) -> list[Placed]:
    """Return where and when a timeline began each piece, with the first one on the first of devices that are alike."""
    begun = {span.unit: (span.device, span.start_s) for span in timeline.spans if span.kind == "compute"}
    placed = [Placed(index, *begun[str(piece.units[0])]) for index, piece in enumerate(problem.pieces)]
    first = placed[0].device
    alike = next(group[0] for group in problem.groups if first in group)
    swapped = {first: alike, alike: first}
    return [item._replace(device=swapped.get(item.device, item.device)) for item in placed]


def _pieces(job: TrainingJob, cluster: Cluster, costs: CostModel, at_most: int | None) -> list[Piece]:
    units = chain_of(job)
    devices = range(len(cluster.devices))
    seconds = [tuple(costs.compute_s(unit, device) for device in devices) for unit in units]
    cuts = _cuts([sum(s) for s in seconds], len(units) if at_most is None else at_most)
    return [
        Piece(
            tuple(units[low:high]),
            position,
            tuple(sum(s[d] for s in seconds[low:high]) for d in devices),
            job.arrival_s,
        )
        for position, (low, high) in enumerate(cuts)
    ]


def _cuts(weights: Sequence[float], count: int) -> list[tuple[int, int]]:
    """Cut a chain into so many runs of about equal weight, none of them empty."""
    if count >= len(weights):
        return [(index, index + 1) for index in range(len(weights))]
    total, done, cuts = sum(weights), 0.0, [0]
    for index, weight in enumerate(weights):
        left, needed = len(weights) - index, count - len(cuts)
        due = total and done + weight / 2 >= total * len(cuts) / count
        if index > cuts[-1] and needed and (due or left == needed):
            cuts.append(index)
        done += weight
    return list(zip(cuts, [*cuts[1:], len(weights)], strict=True))
